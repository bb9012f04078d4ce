//! What a question has besides its words, as far as the server takes it.
//!
//! Everything here may be left out or asked for in another way. A server that refuses one of these
//! refuses it for every question, so [`Terms`] are shared by all questions of a command.

use std::collections::BTreeSet;

use super::ResponseFormat;

/// Least number of tokens that is worth asking for.
pub(super) const LEAST: u32 = 256;

/// A part of a question that a server may refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Knob {
    /// The wish for an answer without thinking aloud.
    Thinking,
    /// `top_k`.
    TopK,
    /// The seed.
    Seed,
    /// `top_p`.
    TopP,
    /// `temperature`.
    Temperature,
    /// The form of the answer.
    Format,
    /// Most tokens of the answer.
    Limit,
    /// The answer in one piece.
    Stream,
    /// A turn of its own for the rules of the conversation.
    System,
    /// The picture.
    Picture,
}

/// How a knob is called in questions and complaints.
pub(super) struct Row {
    /// Which.
    pub(super) knob: Knob,
    /// Its names, the one in the question first.
    pub(super) names: &'static [&'static str],
}

/// Every knob, those first that are the least missed.
pub(super) const TABLE: [Row; 10] = [
    Row {
        knob: Knob::Thinking,
        names: &["chat_template_kwargs", "enable_thinking"],
    },
    Row {
        knob: Knob::TopK,
        names: &["top_k"],
    },
    Row {
        knob: Knob::Seed,
        names: &["seed"],
    },
    Row {
        knob: Knob::TopP,
        names: &["top_p"],
    },
    Row {
        knob: Knob::Temperature,
        names: &["temperature"],
    },
    Row {
        knob: Knob::Format,
        names: &[
            "response_format",
            "json_schema",
            "json_object",
            "guided_json",
            "guided_decoding",
            "structured_output",
            "structured_outputs",
            "schema",
            "grammar",
            "minitems",
            "additionalproperties",
        ],
    },
    Row {
        knob: Knob::Limit,
        names: &["max_tokens", "max_completion_tokens", "max_new_tokens"],
    },
    Row {
        knob: Knob::Stream,
        names: &["stream", "streaming"],
    },
    Row {
        knob: Knob::System,
        names: &["system", "roles", "role"],
    },
    Row {
        knob: Knob::Picture,
        names: &[
            "image_url",
            "image",
            "images",
            "image_input",
            "vision",
            "multimodal",
        ],
    },
];

/// How the form of an answer is asked for; each is taken by more servers than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Form {
    /// By a schema, without lengths of texts.
    Schema,
    /// By a schema of types and names only.
    PlainSchema,
    /// As any JSON object.
    Object,
    /// In words only.
    Words,
}

impl Form {
    fn of(format: ResponseFormat) -> Self {
        match format {
            ResponseFormat::Schema => Self::Schema,
            ResponseFormat::Object => Self::Object,
            ResponseFormat::Off => Self::Words,
        }
    }

    fn next(self) -> Option<Self> {
        match self {
            Self::Schema => Some(Self::PlainSchema),
            Self::PlainSchema => Some(Self::Object),
            Self::Object => Some(Self::Words),
            Self::Words => None,
        }
    }

    fn told(self) -> &'static str {
        match self {
            Self::Schema => "response_format: the schema",
            Self::PlainSchema => "response_format: the schema without bounds",
            Self::Object => "response_format: any JSON object (planner.format = \"object\")",
            Self::Words => "response_format left out (planner.format = \"off\")",
        }
    }
}

/// The name by which the server knows the limit of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LimitName {
    /// The old one, which nearly all servers know.
    MaxTokens,
    /// The one of newer models of OpenAI.
    MaxCompletionTokens,
    /// None: the server has a limit of its own.
    LeftOut,
}

impl LimitName {
    /// The key in a question.
    pub(super) fn key(self) -> Option<&'static str> {
        match self {
            Self::MaxTokens => Some("max_tokens"),
            Self::MaxCompletionTokens => Some("max_completion_tokens"),
            Self::LeftOut => None,
        }
    }

    fn next(self) -> Option<Self> {
        match self {
            Self::MaxTokens => Some(Self::MaxCompletionTokens),
            Self::MaxCompletionTokens => Some(Self::LeftOut),
            Self::LeftOut => None,
        }
    }
}

/// What is known of the window of the model: question and answer share it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Window {
    tokens: u32,
    /// Tokens of a question by its bytes.
    rate: f64,
}

/// How questions are asked.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Terms {
    pub(super) form: Form,
    pub(super) limit: LimitName,
    /// Most tokens of an answer.
    most: u32,
    window: Option<Window>,
    without: BTreeSet<Knob>,
}

impl Terms {
    /// As the settings want them.
    pub(super) fn new(format: ResponseFormat, most: u32) -> Self {
        Self {
            form: Form::of(format),
            limit: LimitName::MaxTokens,
            most,
            window: None,
            without: BTreeSet::new(),
        }
    }

    /// Whether a part is in the questions at all.
    pub(super) fn has(&self, knob: Knob) -> bool {
        match knob {
            Knob::Format => self.form != Form::Words,
            Knob::Limit => self.limit != LimitName::LeftOut,
            _ => !self.without.contains(&knob),
        }
    }

    /// Gives way in one part, by one step; false if there is nothing left to give.
    pub(super) fn yield_in(&mut self, knob: Knob) -> bool {
        match knob {
            Knob::Format => match self.form.next() {
                Some(next) => self.form = next,
                None => return false,
            },
            Knob::Limit => match self.limit.next() {
                Some(next) => self.limit = next,
                None => return false,
            },
            _ => return self.without.insert(knob),
        }
        true
    }

    /// Gives way in one part, all the way.
    pub(super) fn leave_out(&mut self, knob: Knob) {
        while self.yield_in(knob) {}
    }

    /// Most tokens for the answer to a question of `bytes` bytes.
    pub(super) fn most_for(&self, bytes: usize) -> u32 {
        let Some(Window { tokens, rate }) = self.window else {
            return self.most;
        };
        let question = (bytes as f64 * rate).ceil() as u32;
        // Templates of chats add words of their own.
        let room = tokens.saturating_sub(question.saturating_add(32));
        room.clamp(1, self.most)
    }

    /// Asks for fewer tokens from now on; false if that makes no sense any more.
    pub(super) fn ask_for_less(&mut self, most: Option<u32>) -> bool {
        let less = most.filter(|most| *most < self.most);
        let less = less.unwrap_or(self.most / 2);
        if less < LEAST.min(self.most) || less == self.most {
            return false;
        }
        self.most = less;
        true
    }

    /// Takes note of the model's window: `tokens` tokens, of which a question of `bytes` bytes took
    /// `question`. False if there is no room for an answer to that question.
    pub(super) fn learn_window(
        &mut self,
        tokens: u32,
        question: Option<u32>,
        bytes: usize,
    ) -> bool {
        /// Of texts with few letters for a token; a third byte is on the safe side for most.
        const RATE: f64 = 1.0 / 3.0;
        let bytes_or_one = bytes.max(1) as f64;
        let before = self.window.map_or(RATE, |window| window.rate);
        let rate = match question {
            Some(question) => 1.05 * f64::from(question) / bytes_or_one,
            // It is known to be too little: the same window was refused before.
            None if self.window.is_some_and(|window| window.tokens == tokens) => 1.5 * before,
            None => before,
        };
        let again = self.window.map(|window| window.tokens) == Some(tokens);
        let rate = if again { rate.max(1.05 * before) } else { rate };
        self.window = Some(Window { tokens, rate });
        self.most_for(bytes) >= LEAST.min(self.most)
    }

    /// What is otherwise than in `wanted`, in the words of the API.
    pub(super) fn departures_from(&self, wanted: &Self) -> Vec<String> {
        let mut told = Vec::new();
        if self.form != wanted.form {
            told.push(self.form.told().to_owned());
        }
        if self.limit != wanted.limit {
            told.push(match self.limit.key() {
                Some(key) => format!("{key} instead of max_tokens"),
                None => "max_tokens left out".to_owned(),
            });
        }
        if self.most != wanted.most {
            told.push(format!(
                "at most {} tokens of answer (planner.max_tokens)",
                self.most
            ));
        }
        if let Some(Window { tokens, .. }) = self.window {
            told.push(format!(
                "answers kept inside the context of {tokens} tokens"
            ));
        }
        let without = self.without.difference(&wanted.without);
        told.extend(without.map(|knob| left_out(*knob)));
        told
    }
}

fn left_out(knob: Knob) -> String {
    match knob {
        Knob::Stream => "the answer is streamed".to_owned(),
        Knob::System => "no turn of the role system".to_owned(),
        Knob::Picture => "the picture left out".to_owned(),
        _ => {
            let row = TABLE.iter().find(|row| row.knob == knob);
            let name = row
                .and_then(|row| row.names.first())
                .unwrap_or(&"an option");
            format!("{name} left out")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> Terms {
        Terms::new(ResponseFormat::Schema, 8192)
    }

    #[test]
    fn every_part_gives_way_a_bounded_number_of_times() {
        for Row { knob, names } in &TABLE {
            let mut terms = terms();
            assert!(terms.has(*knob), "{names:?}");
            let steps = (0..9).take_while(|_| terms.yield_in(*knob)).count();
            assert!((1..=3).contains(&steps), "{names:?}: {steps}");
            assert!(!terms.has(*knob));
            assert_eq!(terms.departures_from(&self::terms()).len(), 1);
        }
        assert_eq!(terms().departures_from(&terms()), [""; 0]);
        let mut off = Terms::new(ResponseFormat::Off, 1);
        assert!(!off.has(Knob::Format) && !off.yield_in(Knob::Format));
    }

    #[test]
    fn answers_are_kept_inside_the_window_of_the_model() {
        let mut terms = terms();
        assert!(terms.learn_window(4096, Some(600), 2400));
        let most = terms.most_for(2400);
        assert!((3000..=3496).contains(&most), "{most}");
        assert!(terms.most_for(4800) < most, "a longer question leaves less");
        assert!(terms.most_for(100) > most);
        // Nobody says how long the question was; each refusal makes it longer.
        let mut blind = self::terms();
        assert!(blind.learn_window(4096, None, 2400));
        let first = blind.most_for(2400);
        assert!(blind.learn_window(4096, None, 2400));
        assert!(blind.most_for(2400) < first);
        let more = (0..50)
            .take_while(|_| blind.learn_window(4096, None, 2400))
            .count();
        assert!(more < 10, "it ends");
        assert!(!self::terms().learn_window(4096, Some(4000), 16_000));
    }

    #[test]
    fn less_is_asked_for_until_it_is_too_little() {
        let mut terms = terms();
        assert!(terms.ask_for_less(Some(4096)));
        assert_eq!(terms.most_for(9), 4096);
        assert!(
            terms.ask_for_less(Some(5000)),
            "a bound that is no bound halves"
        );
        assert_eq!(terms.most_for(9), 2048);
        let steps = (0..50).take_while(|_| terms.ask_for_less(None)).count();
        assert_eq!(steps, 3);
    }
}
