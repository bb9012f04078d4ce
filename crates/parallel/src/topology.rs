//! How the ranks of a world are divided: into replicas, and inside a replica into roles.
//!
//! The ranks of a replica stand next to each other, those that share layers closest together:
//! `rank = (cfg * sequence + s) * tensor + t` for the ranks of the denoiser, then those that encode,
//! then those that decode. The first rank of a replica leads it. Ranks that only plan stories belong
//! to no replica and come last.

use crate::error::LayoutError;

/// What a config asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Copies of the networks; `None`: all that the world has room for.
    pub replicas: Option<usize>,
    /// How the denoiser of a replica is divided.
    pub degrees: Degrees,
    /// Ranks of a replica that only encode; 0: the leader does it.
    pub encoders: usize,
    /// Ranks of a replica that only decode and score; 0: the leader does it.
    pub decoders: usize,
    /// Ranks of the world that only plan stories; 0: the leaders do it.
    pub planners: usize,
    /// How many of these share one language model; divides their number.
    pub planner_tensor: usize,
}

/// How many ranks share a denoiser, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Degrees {
    /// Ranks that share each layer, by heads.
    pub tensor: usize,
    /// Ranks that share the tokens (Ulysses).
    pub sequence: usize,
    /// Ranks that share the two halves of guidance: 1 or 2.
    pub cfg: usize,
}

impl Degrees {
    /// One rank does it all.
    pub const ONE: Self = Self {
        tensor: 1,
        sequence: 1,
        cfg: 1,
    };

    /// Ranks of a denoiser.
    pub fn ranks(self) -> usize {
        self.tensor * self.sequence * self.cfg
    }

    /// Cell of the rank `index` of the denoiser.
    pub fn cell(self, index: usize) -> GridCell {
        GridCell {
            tensor: index % self.tensor,
            sequence: index / self.tensor % self.sequence,
            cfg: index / (self.tensor * self.sequence),
        }
    }

    /// The denoiser's ranks that share layers with `cell`.
    pub fn tensor_group(self, cell: GridCell) -> Vec<usize> {
        let first = (cell.cfg * self.sequence + cell.sequence) * self.tensor;
        (first..first + self.tensor).collect()
    }

    /// The denoiser's ranks that share tokens with `cell`.
    pub fn sequence_group(self, cell: GridCell) -> Vec<usize> {
        let rank = |sequence| (cell.cfg * self.sequence + sequence) * self.tensor + cell.tensor;
        (0..self.sequence).map(rank).collect()
    }

    /// Checks the degrees against a transformer of `heads` heads and `ffn` hidden channels.
    ///
    /// # Errors
    /// What does not divide, with the values that do.
    pub fn check_model(self, model: &str, heads: usize, ffn: usize) -> Result<(), LayoutError> {
        let legal = |divides: &dyn Fn(usize) -> bool| {
            let values = (1..=heads).filter(|&n| divides(n));
            values.map(|n| n.to_string()).collect::<Vec<_>>().join(", ")
        };
        let tensor = |n: usize| heads.is_multiple_of(n) && ffn.is_multiple_of(n);
        if !tensor(self.tensor) {
            return Err(LayoutError(format!(
                "topology.tensor = {} does not divide the {heads} heads and {ffn} feed-forward \
                 channels of {model}; use one of {}",
                self.tensor,
                legal(&tensor)
            )));
        }
        let own = heads / self.tensor;
        if !own.is_multiple_of(self.sequence) {
            return Err(LayoutError(format!(
                "topology.sequence = {} does not divide the {own} heads that each of {} tensor \
                 ranks has of {model}; use one of {}",
                self.sequence,
                self.tensor,
                legal(&|n| own.is_multiple_of(n))
            )));
        }
        Ok(())
    }
}

/// Cell of a rank in the grid of a denoiser: tensor × sequence × cfg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GridCell {
    /// Which slice of the layers.
    pub tensor: usize,
    /// Which slice of the tokens.
    pub sequence: usize,
    /// Which half of guidance: 0 is the prompt, 1 the negative prompt.
    pub cfg: usize,
}

/// What a rank does in its replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Denoises, and leads the replica if it is the first.
    Denoise(GridCell),
    /// Encodes.
    Encode,
    /// Decodes and scores.
    Decode,
    /// Plans stories, for all replicas.
    Plan,
}

/// Where a rank sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// Its replica; ranks that plan are counted on after the replicas, by those that share a model.
    pub replica: usize,
    /// Its rank inside the replica; 0 leads.
    pub index: usize,
    /// What it does.
    pub role: Role,
}

/// A world divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Copies of the networks.
    pub replicas: usize,
    /// How each is divided.
    pub plan: Plan,
}

impl Plan {
    /// Ranks of a replica.
    pub fn ranks(&self) -> usize {
        self.degrees.ranks() + self.encoders + self.decoders
    }

    /// Divides a world of `size` ranks; none may be left over.
    ///
    /// # Errors
    /// What does not fit, with what would.
    pub fn lay_out(self, size: usize) -> Result<Layout, LayoutError> {
        let Degrees {
            tensor,
            sequence,
            cfg,
        } = self.degrees;
        for (key, value) in [("tensor", tensor), ("sequence", sequence)] {
            if value == 0 {
                return Err(LayoutError(format!("topology.{key} = 0; use at least 1")));
            }
        }
        if !(1..=2).contains(&cfg) {
            let reason = "guidance has two halves; use 1 or 2";
            return Err(LayoutError(format!("topology.cfg = {cfg}: {reason}")));
        }
        let (planners, shared) = (self.planners, self.planner_tensor);
        if shared == 0 || !planners.is_multiple_of(shared) {
            return Err(LayoutError(format!(
                "topology.planner_tensor = {shared} does not divide topology.planners = {planners}; \
                 use at least 1, and as many planners or a multiple"
            )));
        }
        let each = self.ranks();
        let parts = format!(
            "tensor {tensor} x sequence {sequence} x cfg {cfg} + {} encoders + {} decoders",
            self.encoders, self.decoders
        );
        let replicas = match self.replicas {
            Some(0) => {
                return Err(LayoutError(
                    "topology.replicas = 0; use at least 1".to_owned(),
                ));
            }
            Some(replicas) => replicas,
            None => (size.saturating_sub(self.planners) / each).max(1),
        };
        if replicas * each + self.planners == size {
            return Ok(Layout {
                replicas,
                plan: self,
            });
        }
        let makers = size.saturating_sub(self.planners) / each;
        let [below, above] = [makers, makers + 1].map(|replicas| replicas * each + self.planners);
        let sizes = match makers {
            0 => format!("{above} ranks"),
            _ => format!("{below} or {above} ranks"),
        };
        let beside = match self.planners {
            0 => String::new(),
            planners => format!(" beside {planners} that plan"),
        };
        Err(LayoutError(match self.replicas {
            None => format!(
                "{size} ranks cannot be divided into replicas of {each} ({parts}){beside}; start \
                 {sizes}, or change the topology"
            ),
            Some(_) => format!(
                "{replicas} replicas of {each} ranks ({parts}){beside} need {} ranks, but {size} \
                 were started; start that number, or set topology.replicas = \"auto\"",
                replicas * each + self.planners
            ),
        }))
    }
}

impl Layout {
    /// Seat of a rank of the world.
    pub fn seat(&self, rank: usize) -> Seat {
        let makers = self.replicas * self.plan.ranks();
        if rank >= makers {
            let (offset, shared) = (rank - makers, self.plan.planner_tensor);
            return Seat {
                replica: self.replicas + offset / shared,
                index: offset % shared,
                role: Role::Plan,
            };
        }
        let index = rank % self.plan.ranks();
        let denoisers = self.plan.degrees.ranks();
        let role = if index < denoisers {
            Role::Denoise(self.plan.degrees.cell(index))
        } else if index < denoisers + self.plan.encoders {
            Role::Encode
        } else {
            Role::Decode
        };
        Seat {
            replica: rank / self.plan.ranks(),
            index,
            role,
        }
    }

    /// Ranks of the world that make up a replica, or that plan together.
    pub fn members(&self, replica: usize) -> Vec<usize> {
        let each = self.plan.ranks();
        if replica >= self.replicas {
            let shared = self.plan.planner_tensor;
            let first = self.replicas * each + (replica - self.replicas) * shared;
            return (first..first + shared).collect();
        }
        (replica * each..(replica + 1) * each).collect()
    }

    /// The first rank of each replica.
    pub fn leaders(&self) -> Vec<usize> {
        let each = self.plan.ranks();
        (0..self.replicas).map(|replica| replica * each).collect()
    }

    /// Ranks of a replica with this role, by their place in the replica.
    pub fn encoders(&self) -> Vec<usize> {
        let first = self.plan.degrees.ranks();
        (first..first + self.plan.encoders).collect()
    }

    /// As [`encoders`](Self::encoders), for those that decode.
    pub fn decoders(&self) -> Vec<usize> {
        let first = self.plan.degrees.ranks() + self.plan.encoders;
        (first..first + self.plan.decoders).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAN: Plan = Plan {
        replicas: None,
        degrees: Degrees::ONE,
        encoders: 0,
        decoders: 0,
        planners: 0,
        planner_tensor: 1,
    };

    #[test]
    fn worlds_that_do_not_divide_say_what_would() {
        let two = Plan {
            degrees: Degrees {
                tensor: 2,
                ..Degrees::ONE
            },
            ..PLAN
        };
        assert_eq!(two.lay_out(4).unwrap().replicas, 2);
        let error = two.lay_out(3).unwrap_err().to_string();
        assert!(error.contains("start 2 or 4 ranks"), "{error}");
        let error = two.lay_out(1).unwrap_err().to_string();
        assert!(error.contains("start 2 ranks"), "{error}");
        let planned = Plan { planners: 1, ..two };
        assert_eq!(planned.lay_out(5).unwrap().replicas, 2);
        let error = planned.lay_out(4).unwrap_err().to_string();
        assert!(
            error.contains("beside 1 that plan; start 3 or 5 ranks"),
            "{error}"
        );
        let sharing = Plan {
            planners: 3,
            planner_tensor: 2,
            ..PLAN
        };
        let error = sharing.lay_out(5).unwrap_err().to_string();
        assert!(
            error.contains("planner_tensor = 2 does not divide"),
            "{error}"
        );
        let fixed = Plan {
            replicas: Some(3),
            ..two
        };
        let error = fixed.lay_out(4).unwrap_err().to_string();
        assert!(error.contains("need 6 ranks, but 4"), "{error}");
        let three = Plan {
            degrees: Degrees {
                cfg: 3,
                ..Degrees::ONE
            },
            ..PLAN
        };
        assert!(three.lay_out(3).unwrap_err().to_string().contains("1 or 2"));
    }

    /// Specification `wan22`, section 6.2: which degrees each published model allows.
    #[test]
    fn degrees_of_the_published_models() {
        for (model, heads, ffn, tensor_eight) in [
            ("the 14B", 40, 13_824, true),
            ("the 5B", 24, 14_336, true),
            ("the 1.3B", 12, 8_960, false),
        ] {
            let degrees = |tensor, sequence| Degrees {
                tensor,
                sequence,
                cfg: 1,
            };
            for n in [1, 2, 4] {
                assert!(degrees(n, 1).check_model(model, heads, ffn).is_ok());
                assert!(degrees(1, n).check_model(model, heads, ffn).is_ok());
            }
            for degrees in [degrees(8, 1), degrees(1, 8)] {
                assert_eq!(degrees.check_model(model, heads, ffn).is_ok(), tensor_eight);
            }
        }
        let eight = Degrees {
            tensor: 8,
            ..Degrees::ONE
        };
        let error = eight
            .check_model("the 1.3B", 12, 8_960)
            .unwrap_err()
            .to_string();
        assert!(error.contains("use one of 1, 2, 4"), "{error}");
    }

    proptest! {
        /// Every rank sits once, and groups hold their own members.
        #[test]
        fn seats_are_a_bijection(
            tensor in 1_usize..5, sequence in 1_usize..4, cfg in 1_usize..3,
            encoders in 0_usize..3, decoders in 0_usize..3, models in 0_usize..3,
            planner_tensor in 1_usize..4, replicas in 1_usize..4,
        ) {
            let degrees = Degrees { tensor, sequence, cfg };
            let planners = models * planner_tensor;
            let plan =
                Plan { replicas: None, degrees, encoders, decoders, planners, planner_tensor };
            let size = plan.ranks() * replicas + planners;
            let layout = plan.lay_out(size).unwrap();
            prop_assert_eq!(layout.replicas, replicas);
            let mut seen = std::collections::HashSet::new();
            for rank in 0..size {
                let seat = layout.seat(rank);
                prop_assert_eq!(seat.role == Role::Plan, rank >= plan.ranks() * replicas);
                if seat.role == Role::Plan {
                    prop_assert!(seen.insert((seat.replica, 3, seat.index, 0, 0)));
                    let members = layout.members(seat.replica);
                    prop_assert_eq!(members.len(), planner_tensor);
                    prop_assert_eq!(members[seat.index], rank);
                    continue;
                }
                prop_assert_eq!(layout.members(seat.replica)[seat.index], rank);
                let key = match seat.role {
                    Role::Denoise(cell) => {
                        prop_assert_eq!(degrees.tensor_group(cell)[cell.tensor], seat.index);
                        prop_assert_eq!(degrees.sequence_group(cell)[cell.sequence], seat.index);
                        (seat.replica, 0, cell.cfg, cell.sequence, cell.tensor)
                    }
                    Role::Encode => {
                        prop_assert!(layout.encoders().contains(&seat.index));
                        (seat.replica, 1, seat.index, 0, 0)
                    }
                    Role::Decode => {
                        prop_assert!(layout.decoders().contains(&seat.index));
                        (seat.replica, 2, seat.index, 0, 0)
                    }
                    Role::Plan => (seat.replica, 3, 0, 0, 0),
                };
                prop_assert!(seen.insert(key));
            }
        }
    }
}
