//! Proof that two who meet know the same secret, without telling it to anyone who listens.
//!
//! A rank greets with a random number; the rank that it calls answers with another. Both then send a keyed
//! hash over the whole greeting and both numbers, which nobody can make, or use a second time, who does
//! not know the secret. Rank, port and size of the world are part of the greeting.

use std::fs::File;
use std::io::{self, Read};

use crate::frame::Greeting;

/// What the key of one world is derived for.
const PURPOSE: &str = "storyloom 2026-11-29 ranks of one world meet";

/// A random number of 32 hexadecimal digits.
///
/// # Errors
/// The system has none.
pub(crate) fn nonce() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim<'a> {
    /// The caller is the rank of its greeting.
    IsRank,
    /// Anyone who was called belongs to the same world.
    IsOfTheWorld,
    /// These bytes are from it.
    Said(&'a [u8]),
}

/// A greeting and the answer to it, between two who say that they know a secret.
#[derive(Clone)]
pub(crate) struct Conversation {
    key: [u8; 32],
    greeting: Vec<u8>,
    nonce: String,
}

impl Conversation {
    /// With the secret `world`, after `greeting` was answered with `nonce`.
    pub(crate) fn new(world: &str, greeting: &Greeting, nonce: String) -> io::Result<Self> {
        Ok(Self {
            key: blake3::derive_key(PURPOSE, world.as_bytes()),
            greeting: serde_json::to_vec(greeting)?,
            nonce,
        })
    }

    fn hash(&self, claim: Claim) -> blake3::Hash {
        match claim {
            Claim::IsRank => self.hash_of(1, &[]),
            Claim::IsOfTheWorld => self.hash_of(2, &[]),
            Claim::Said(said) => self.hash_of(3, said),
        }
    }

    /// A key of this conversation alone, to encrypt with. It is never told.
    pub(crate) fn key(&self) -> [u8; 32] {
        *self.hash_of(4, &[]).as_bytes()
    }

    fn hash_of(&self, number: u8, said: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&[number]);
        for part in [&self.greeting[..], self.nonce.as_bytes(), said] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.finalize()
    }

    /// The proof of a claim, as text.
    pub(crate) fn prove(&self, claim: Claim) -> String {
        self.hash(claim).to_hex().to_string()
    }

    /// Whether `proof` proves it. Takes as long for a wrong one as for the right one.
    pub(crate) fn is_proof(&self, claim: Claim, proof: &str) -> bool {
        // The comparison of hashes takes constant time.
        blake3::Hash::from_hex(proof).is_ok_and(|proof| proof == self.hash(claim))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting(rank: usize) -> Greeting {
        Greeting {
            rank,
            port: 1000,
            size: 4,
            ..Greeting::default()
        }
    }

    fn conversation(world: &str, rank: usize, nonce: &str) -> Conversation {
        Conversation::new(world, &greeting(rank), nonce.to_owned()).unwrap()
    }

    #[test]
    fn a_proof_is_of_one_claim_in_one_conversation() {
        let here = conversation("secret", 1, "a");
        let claims = [Claim::IsRank, Claim::IsOfTheWorld, Claim::Said(b"list")];
        for claim in claims {
            let proof = here.prove(claim);
            assert!(here.is_proof(claim, &proof));
            assert!(!proof.contains("secret"));
            for other in [Claim::IsRank, Claim::IsOfTheWorld, Claim::Said(b"lost")] {
                assert_eq!(here.is_proof(other, &proof), other == claim, "{other:?}");
            }
            for there in [
                conversation("secret2", 1, "a"),
                conversation("secret", 2, "a"),
                conversation("secret", 1, "b"),
                conversation("", 1, "a"),
            ] {
                assert!(!there.is_proof(claim, &proof));
            }
        }
        for text in ["", "00", "secret", &"0".repeat(64), &"é".repeat(32)] {
            assert!(!here.is_proof(Claim::IsRank, text), "{text}");
        }
        assert_ne!(nonce().unwrap(), nonce().unwrap());
    }
}
