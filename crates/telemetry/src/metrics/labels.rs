//! What the labels of metrics may say. Labels divide a metric into few parts, known in advance;
//! no label names a story or a shot.

use storyloom_story::Stage;

/// A value of a label that has a closed set of values.
pub trait LabelValue: Copy + PartialEq + 'static {
    /// Name and values of the label.
    const LABEL: Label;
    /// All values, in the order of [`Self::LABEL`].
    const ALL: &'static [Self];
    /// The value as the series has it.
    fn text(self) -> &'static str;
}

/// A label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// What it may be.
    pub values: Values,
}

/// What a label may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// One of these.
    Closed(&'static [&'static str]),
    /// A fact of the process or of a GPU: few values in a run, however many stories it has. The
    /// text says which fact.
    Fact(&'static str),
}

/// Defines the values of a label once: an enum, its texts and its [`Label`].
macro_rules! label {
    ($(#[doc = $about:literal])+ $type:ident $name:literal {
        $( $(#[doc = $doc:literal])+ $value:ident $text:literal, )+
    }) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $type {
            $( $(#[doc = $doc])+ $value, )+
        }

        impl LabelValue for $type {
            const LABEL: Label = Label { name: $name, values: Values::Closed(&[$($text),+]) };
            const ALL: &'static [Self] = &[$(Self::$value),+];

            fn text(self) -> &'static str {
                match self {
                    $(Self::$value => $text,)+
                }
            }
        }
    };
}

label! {
    /// State of a story or a shot, as `storyloom status` has it.
    State "state" {
        /// Finished.
        Done "done",
        /// Begun.
        Running "running",
        /// Not begun.
        Pending "pending",
        /// Given up.
        Failed "failed",
        /// Set aside so that nobody tries it again.
        Quarantined "quarantined",
    }
}

label! {
    /// What the time of a replica's ranks went into.
    Use "use" {
        /// Stages whose work was kept.
        Useful "useful",
        /// Stages whose work was lost.
        Wasted "wasted",
        /// Loading of models.
        Load "load",
        /// Nothing.
        Idle "idle",
    }
}

label! {
    /// What kind of processor the ranks compute on.
    Device "device" {
        /// Cores.
        Cpu "cpu",
        /// GPUs.
        Cuda "cuda",
    }
}

label! {
    /// How an attempt at a shot or a plan ended.
    AttemptEnd "end" {
        /// The shot or the plan exists.
        Committed "committed",
        /// It went wrong.
        Failed "failed",
        /// The program was asked to stop.
        Stopped "stopped",
    }
}

label! {
    /// How a program lost its machine.
    Preemption "how" {
        /// It was asked to stop, and saved its work.
        Stopped "stopped",
        /// It was gone without a word.
        Killed "killed",
    }
}

label! {
    /// Why work was lost.
    LossCause "cause" {
        /// The program was stopped or killed.
        Preempted "preempted",
        /// The attempt went wrong.
        Failed "failed",
    }
}

label! {
    /// What happened to a saved sampling loop.
    CheckpointAction "action" {
        /// It was written.
        Saved "saved",
        /// A shot went on from it.
        Resumed "resumed",
        /// It did not fit, and the shot began anew.
        Ignored "ignored",
    }
}

label! {
    /// Which end of a range.
    Bound "bound" {
        /// If all goes well.
        Low "low",
        /// The likely value.
        Likely "likely",
        /// If it goes on badly.
        High "high",
    }
}

label! {
    /// What lies on a disk.
    DiskRole "place" {
        /// The run folder.
        Run "run",
        /// The index of the memory bank.
        Bank "bank",
    }
}

impl LabelValue for Stage {
    const LABEL: Label = Label {
        name: "stage",
        values: Values::Closed(&["plan", "encode", "denoise", "decode", "select", "commit"]),
    };
    const ALL: &'static [Self] = &Stage::ALL;

    fn text(self) -> &'static str {
        self.name()
    }
}

/// Rank in the world, from 0.
pub const RANK: Label = fact("rank", "rank in the world, from 0");
/// Name of the machine a rank is on.
pub const HOST: Label = fact("host", "name of the rank's machine");
/// UUID of a GPU, as NVML and DCGM give it.
pub const UUID: Label = fact("uuid", "UUID of the GPU, as NVML and DCGM give it");
/// Number of an XID error.
pub const XID: Label = fact("xid", "number of the error in NVIDIA's list of XID errors");
/// Version of the program.
pub const VERSION: Label = fact("version", "version of the program");
/// Replica of the world, from 0.
pub const REPLICA: Label = fact("replica", "replica of the world, from 0");
/// Method that makes the shots.
pub const METHOD: Label = fact(
    "method",
    "how the shots are conditioned, as the option `method`",
);
/// Engine that makes the pictures.
pub const ENGINE: Label = fact("engine", "the option `engine`");

const fn fact(name: &'static str, what: &'static str) -> Label {
    Label {
        name,
        values: Values::Fact(what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts_are_those_of_the_label<L: LabelValue + std::fmt::Debug>() {
        let texts: Vec<_> = L::ALL.iter().map(|value| value.text()).collect();
        assert_eq!(L::LABEL.values, Values::Closed(texts.leak()));
    }

    #[test]
    fn labels_list_the_texts_of_their_values() {
        texts_are_those_of_the_label::<Stage>();
        texts_are_those_of_the_label::<State>();
        texts_are_those_of_the_label::<Use>();
        texts_are_those_of_the_label::<AttemptEnd>();
        texts_are_those_of_the_label::<Bound>();
        texts_are_those_of_the_label::<CheckpointAction>();
        texts_are_those_of_the_label::<Device>();
        texts_are_those_of_the_label::<LossCause>();
        texts_are_those_of_the_label::<DiskRole>();
        texts_are_those_of_the_label::<Preemption>();
    }
}
