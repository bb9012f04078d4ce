//! Which briefs a planner can write a script of, before it is asked to.

use storyloom_story::Brief;

use crate::planner::BackendKind;
use crate::rules;

/// Why a planner cannot write the script of a brief, whatever the seed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}; {}", self.what(), self.help())]
pub enum CannotWrite {
    /// Rules make nothing of ideas.
    Idea,
    /// The product has no name, and rules do not see.
    NoTitle,
    /// The name has no word in it.
    NoName {
        /// The title.
        title: String,
    },
    /// Rules have English sentences only.
    Language {
        /// The tag of the language.
        tag: String,
    },
    /// The model of this program has no eyes, and the brief has a picture only.
    Blind,
}

impl CannotWrite {
    /// What is in the way.
    pub fn what(&self) -> String {
        match self {
            Self::Idea => "the rules plan advertisements and no story ideas".to_owned(),
            Self::NoTitle => "the rules cannot see, and the product has no \"title\"".to_owned(),
            Self::NoName { title } => {
                format!("the title {title:?} has no word that names the product")
            }
            Self::Language { tag } => format!("the rules write English and not {tag:?}"),
            Self::Blind => {
                "the language model sees no pictures, and there is nothing else".to_owned()
            }
        }
    }

    /// What to do about it.
    pub fn help(&self) -> String {
        const MODEL: &str =
            "choose a planner with a language model: planner.backend = \"served\" or \"native\"";
        match self {
            Self::Idea | Self::Language { .. } => MODEL.to_owned(),
            Self::NoTitle => format!("give it one, or {MODEL}"),
            Self::NoName { .. } => "write one, as in \"Ember kettle\"".to_owned(),
            Self::Blind => "give the brief a \"title\", or choose a model that sees".to_owned(),
        }
    }
}

impl BackendKind {
    /// Whether planners of this kind can write the script of a brief at all.
    ///
    /// # Errors
    /// Why they cannot, with what to do.
    pub fn can_write(self, brief: &Brief) -> Result<(), CannotWrite> {
        match self {
            Self::Rules => rules::check(brief),
            // What a server has is known when it answers.
            Self::Served | Self::Native => Ok(()),
        }
    }
}

/// Whether a brief says nothing of its product but how it looks.
pub(crate) fn needs_eyes(brief: &Brief) -> bool {
    brief.product_image.is_some() && brief.title.is_none() && brief.idea.is_none()
}
