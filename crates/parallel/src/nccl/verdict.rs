//! Which ranks are to be named when a group fails.
//!
//! Every rank tells all others once where it stands. From what was said, and by whom, all ranks
//! come to the same verdict.

use std::collections::BTreeSet;

use crate::backend::Roster;
use crate::call::{CALL_BYTES, Call};
use crate::error::CommError;

/// Why a rank gives the group up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// An operation waited for so long.
    Late { seconds: u64 },
    /// The library or the device said something.
    Said(String),
    /// Another rank told of a fault.
    Told,
}

/// Where a rank stands when the group fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) fault: Fault,
    /// The last collective its device came to.
    pub(super) entered: u64,
    pub(super) waiting: Option<Waiting>,
}

/// What a rank waits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) call: Call,
    /// The other end of a message.
    pub(super) peer: Option<usize>,
}

/// What came from a rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Said(Report),
    /// Its process has ended.
    Gone,
    /// Nothing in time.
    Silent,
}

const HEAD: usize = 26;

impl Report {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let (tag, seconds, text) = match &self.fault {
            Fault::Late { seconds } => (0_u8, *seconds, ""),
            Fault::Said(text) => (1, 0, text.as_str()),
            Fault::Told => (2, 0, ""),
        };
        let peer = self.waiting.and_then(|waiting| waiting.peer);
        let mut bytes = vec![tag, u8::from(self.waiting.is_some())];
        bytes.extend(seconds.to_le_bytes());
        bytes.extend(self.entered.to_le_bytes());
        bytes.extend(peer.map_or(u64::MAX, |peer| peer as u64).to_le_bytes());
        if let Some(waiting) = self.waiting {
            bytes.extend(waiting.call.to_bytes());
        }
        bytes.extend(text.as_bytes());
        bytes
    }

    /// `None` for bytes that are no report.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (head, mut rest) = bytes.split_first_chunk::<HEAD>()?;
        let number = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&head[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let mut waiting = None;
        if head[1] != 0 {
            let (call, text) = rest.split_first_chunk::<CALL_BYTES>()?;
            rest = text;
            waiting = Some(Waiting {
                call: Call::from_bytes(call)?,
                peer: usize::try_from(number(18))
                    .ok()
                    .filter(|&peer| peer != usize::MAX),
            });
        }
        let fault = match head[0] {
            0 => Fault::Late { seconds: number(2) },
            1 => Fault::Said(String::from_utf8_lossy(rest).into_owned()),
            2 => Fault::Told,
            _ => return None,
        };
        Some(Self {
            fault,
            entered: number(10),
            waiting,
        })
    }
}

/// What the group failed of, from the answers of its members; that of `rank` is its own. Ranks
/// that say nothing were listened to for `listened` seconds.
pub(super) fn verdict(
    roster: &Roster,
    rank: usize,
    answers: &[Answer],
    listened: u64,
) -> CommError {
    let of_kind = |kind: &Answer| {
        let found = (0..answers.len()).filter(|&member| answers[member] == *kind);
        named(roster, found)
    };
    let group = roster.group.clone();
    let operation = operation(rank, answers);
    let gone = of_kind(&Answer::Gone);
    if !gone.is_empty() {
        return CommError::Lost {
            group,
            operation,
            ranks: gone,
        };
    }
    let late = reports(answers).filter_map(|(_, report)| match report.fault {
        Fault::Late { seconds } => Some(seconds),
        _ => None,
    });
    let late = late.max();
    let silent = of_kind(&Answer::Silent);
    if !silent.is_empty() {
        return CommError::Late {
            group,
            operation,
            ranks: silent,
            seconds: late.unwrap_or(listened),
        };
    }
    // Where the library has failed, some ranks are ahead of others, and that is no reason.
    if let Some(seconds) = late {
        if let Some((other, theirs)) = disagreeing(rank, answers) {
            return CommError::Disagree {
                group,
                operation,
                rank: roster.members[other],
                theirs: theirs.to_string(),
            };
        }
        let culprits = named(roster, culprits(answers).into_iter());
        if !culprits.is_empty() {
            return CommError::Late {
                group,
                operation,
                ranks: culprits,
                seconds,
            };
        }
    }
    let own_first = reports(answers).filter(|&(member, _)| member == rank);
    let said = own_first
        .chain(reports(answers))
        .find_map(|(member, report)| {
            let Fault::Said(text) = &report.fault else {
                return None;
            };
            let who = roster.members[member];
            Some(if member == rank {
                text.clone()
            } else {
                format!("rank {who} says: {text}")
            })
        });
    let seconds = late.unwrap_or_default();
    CommError::Backend {
        operation: format!("{operation} in group {group}"),
        reason: said.unwrap_or_else(|| {
            format!("all ranks take part, and it does not end within {seconds} s")
        }),
    }
}

fn reports(answers: &[Answer]) -> impl Iterator<Item = (usize, &Report)> {
    let answers = answers.iter().enumerate();
    answers.filter_map(|(member, answer)| match answer {
        Answer::Said(report) => Some((member, report)),
        _ => None,
    })
}

fn named(roster: &Roster, members: impl Iterator<Item = usize>) -> Vec<usize> {
    let known = members.filter_map(|member| roster.members.get(member));
    known.copied().collect()
}

/// What this rank waits in, or else another one.
fn operation(rank: usize, answers: &[Answer]) -> String {
    let waits_at = |(member, report): (usize, &Report)| Some((member, report.waiting?.call));
    let mut calls: Vec<(usize, Call)> = reports(answers).filter_map(waits_at).collect();
    calls.sort_by_key(|&(member, _)| member != rank);
    calls
        .first()
        .map_or("NCCL".to_owned(), |(_, call)| call.to_string())
}

/// A rank that is in another collective than this one, though it has called as many.
fn disagreeing(rank: usize, answers: &[Answer]) -> Option<(usize, Call)> {
    let collective = |(member, report): (usize, &Report)| {
        let waiting = report.waiting.filter(|waiting| waiting.peer.is_none())?;
        Some((member, waiting.call))
    };
    let calls: Vec<(usize, Call)> = reports(answers).filter_map(collective).collect();
    let &(_, own) = calls.iter().find(|&&(member, _)| member == rank)?;
    calls
        .into_iter()
        .find(|&(_, call)| call.sequence == own.sequence && call != own)
}

/// The ranks that others wait for. Those that wait for somebody in turn are not named, unless that
/// leaves nobody.
fn culprits(answers: &[Answer]) -> BTreeSet<usize> {
    let waits: Vec<BTreeSet<usize>> = (0..answers.len())
        .map(|member| waits_for(member, answers))
        .collect();
    let all: BTreeSet<usize> = waits.iter().flatten().copied().collect();
    let idle = |member: &usize| waits.get(*member).is_none_or(BTreeSet::is_empty);
    let last: BTreeSet<usize> = all.iter().copied().filter(idle).collect();
    if last.is_empty() { all } else { last }
}

fn waits_for(member: usize, answers: &[Answer]) -> BTreeSet<usize> {
    let Answer::Said(Report {
        waiting: Some(waiting),
        ..
    }) = &answers[member]
    else {
        return BTreeSet::new();
    };
    match waiting.peer {
        Some(peer) => BTreeSet::from([peer]),
        None => reports(answers)
            .filter(|(_, report)| report.entered < waiting.call.sequence)
            .map(|(other, _)| other)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Kind;
    use crate::element::Dtype;

    const LATE: Fault = Fault::Late { seconds: 30 };

    fn call(kind: Kind, sequence: u64) -> Call {
        Call {
            sequence,
            ..Call::new(kind, Dtype::F32, 8)
        }
    }

    /// In a collective, or after it if `waits` is false.
    fn at(fault: Fault, sequence: u64, waits: bool) -> Answer {
        let waiting = waits.then(|| Waiting {
            call: call(Kind::AllReduce, sequence),
            peer: None,
        });
        Answer::Said(Report {
            fault,
            entered: sequence,
            waiting,
        })
    }

    fn message(fault: Fault, peer: usize) -> Answer {
        Answer::Said(Report {
            fault,
            entered: 4,
            waiting: Some(Waiting {
                call: call(Kind::Message, 0),
                peer: Some(peer),
            }),
        })
    }

    fn said(text: &str) -> Fault {
        Fault::Said(text.to_owned())
    }

    /// The verdict of each rank of a group whose ranks of the world are 10, 11, ...
    fn verdicts(answers: &[Answer]) -> Vec<CommError> {
        let roster = Roster {
            group: "world".to_owned(),
            members: (10..10 + answers.len()).collect(),
        };
        (0..answers.len())
            .filter(|&rank| matches!(answers[rank], Answer::Said(_)))
            .map(|rank| verdict(&roster, rank, answers, 3))
            .collect()
    }

    fn assert_late(answers: &[Answer], culprits: &[usize], after: u64) {
        for error in verdicts(answers) {
            match &error {
                CommError::Late { ranks, seconds, .. } => {
                    assert_eq!((ranks.as_slice(), *seconds), (culprits, after), "{error}");
                }
                _ => panic!("{error}"),
            }
        }
    }

    #[test]
    fn reports_survive_the_wire() {
        for fault in [LATE, said("größer"), said(""), Fault::Told] {
            for waiting in [None, Some(None), Some(Some(0)), Some(Some(7))] {
                let report = Report {
                    fault: fault.clone(),
                    entered: 1 << 40,
                    waiting: waiting.map(|peer| Waiting {
                        call: call(Kind::Barrier, 12),
                        peer,
                    }),
                };
                let bytes = report.to_bytes();
                assert_eq!(Report::from_bytes(&bytes), Some(report));
                assert_eq!(Report::from_bytes(&bytes[..HEAD - 1]), None);
            }
        }
        assert_eq!(Report::from_bytes(&[0xff; 60]), None);
        assert_eq!(Report::from_bytes(&[]), None);
    }

    #[test]
    fn the_dead_come_first() {
        let answers = [
            at(LATE, 5, true),
            Answer::Silent,
            Answer::Gone,
            at(said("remote error"), 5, true),
        ];
        for error in verdicts(&answers) {
            assert!(
                matches!(&error, CommError::Lost { ranks, .. } if *ranks == [12]),
                "{error}"
            );
        }
    }

    #[test]
    fn the_silent_are_late() {
        let answers = [at(LATE, 5, true), Answer::Silent, Answer::Silent];
        assert_late(&answers, &[11, 12], 30);
        // Whose library found out first has not waited.
        let answers = [at(said("remote error"), 5, true), Answer::Silent];
        assert_late(&answers, &[11], 3);
    }

    #[test]
    fn who_answers_and_did_not_come_is_late() {
        let answers = [
            at(LATE, 5, true),
            at(Fault::Told, 4, false),
            at(Fault::Told, 5, true),
        ];
        assert_late(&answers, &[11], 30);
        let texts: Vec<String> = verdicts(&answers).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts[0],
            "all-reduce of 8 f32 (call 5) in group world: no sign of rank 11 for 30 s"
        );
        assert_eq!(texts[0], texts[1]);
        assert_eq!(texts[0], texts[2]);
    }

    #[test]
    fn chains_of_messages_lead_to_their_end() {
        // 10 waits for 11, which waits for 12, which computes.
        let answers = [
            message(LATE, 1),
            message(Fault::Told, 2),
            at(Fault::Told, 4, false),
        ];
        assert_late(&answers, &[12], 30);
        // 11 did not come to the collective because of a message from 12.
        let answers = [
            at(LATE, 5, true),
            message(Fault::Told, 2),
            at(Fault::Told, 5, false),
        ];
        assert_late(&answers, &[12], 30);
        // Each waits for the other.
        let answers = [message(LATE, 1), message(LATE, 0)];
        assert_late(&answers, &[10, 11], 30);
        // Bytes from another version name nobody outside the group.
        let answers = [message(LATE, 99)];
        assert!(matches!(verdicts(&answers)[0], CommError::Backend { .. }));
    }

    #[test]
    fn other_collectives_are_named() {
        let barrier = Answer::Said(Report {
            fault: Fault::Told,
            entered: 5,
            waiting: Some(Waiting {
                call: call(Kind::Barrier, 5),
                peer: None,
            }),
        });
        let answers = [at(LATE, 5, true), barrier, at(Fault::Told, 5, true)];
        let found: Vec<usize> = verdicts(&answers)
            .into_iter()
            .map(|error| match error {
                CommError::Disagree { rank, .. } => rank,
                error => panic!("{error}"),
            })
            .collect();
        assert_eq!(found, [11, 10, 11]);
    }

    #[test]
    fn what_the_library_says_is_passed_on() {
        let answers = [
            at(Fault::Told, 5, true),
            at(said("unhandled system error"), 4, false),
        ];
        let texts: Vec<String> = verdicts(&answers).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts[0],
            "all-reduce of 8 f32 (call 5) in group world: rank 11 says: unhandled system error"
        );
        assert!(texts[1].ends_with("world: unhandled system error"));
        // Two have a fault: each tells its own.
        let answers = [at(said("one"), 5, true), at(said("two"), 5, true)];
        let texts: Vec<String> = verdicts(&answers).iter().map(ToString::to_string).collect();
        assert!(texts[0].ends_with(": one") && texts[1].ends_with(": two"));
    }

    #[test]
    fn all_are_there_and_nothing_moves() {
        let answers = [at(LATE, 5, true), at(Fault::Told, 5, true)];
        for error in verdicts(&answers) {
            assert!(
                error.to_string().contains("does not end within 30 s"),
                "{error}"
            );
            assert!(error.is_resumable());
        }
    }
}
