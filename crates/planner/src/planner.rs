//! One face for all ways of making a script.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use storyloom_pictures::{Picture, PictureFolder};
use storyloom_story::{Brief, ErrorClass, Ground, Seed};

use crate::capability::{CannotWrite, needs_eyes};
use crate::chat::{Chat, ModelIdentity, Sampling};
use crate::check::{check, mend};
use crate::dialogue::{Interview, Steps};
use crate::prompts::{PromptError, Prompts, TemplateVersion};
use crate::rules;
use crate::schema::Bounds;

pub use storyloom_story::{PlanError, PlanRequest, PlannedScript, PlannerDescription, Settle};

/// What makes scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// Fixed rules and no model.
    Rules,
    /// A model behind an OpenAI-compatible endpoint.
    Served,
    /// A model in this program.
    Native,
}

impl BackendKind {
    /// The name used in configs and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Served => "served",
            Self::Native => "native",
        }
    }
}

/// Everything but brief and seed that decides a script: the recipe in the [description](Planner::describe)
/// of a planner of this crate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannerRecipe {
    /// What makes the scripts.
    pub backend: BackendKind,
    /// Version of the rules, where these make them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<u32>,
    /// The model, where one makes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelIdentity>,
    /// The templates that it is asked with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub templates: Option<TemplateVersion>,
    /// How its answers are drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling: Option<Sampling>,
    /// How many questions a script takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<Steps>,
    /// How often it may put answers right.
    pub repairs: u32,
    /// Most characters of a prompt.
    pub prompt_chars: u32,
}

impl PlannerRecipe {
    /// Whether plans of `before` are as good as those of this planner: it is the same one, also if its
    /// model is served at another address, or rules of an earlier version.
    pub fn continues(&self, before: &Self) -> bool {
        let mut same = Self {
            rules: self.rules,
            ..before.clone()
        };
        if let (Some(model), Some(now)) = (&mut same.model, &self.model) {
            model.endpoint.clone_from(&now.endpoint);
        }
        before.rules <= self.rules && same == *self
    }
}

/// What decides a script besides the back end.
#[derive(Debug, Clone)]
pub struct PlannerSettings {
    /// Folder whose templates replace the shipped ones.
    pub prompts: Option<PathBuf>,
    /// How many questions a script takes.
    pub steps: Steps,
    /// How often a model may put an answer right.
    pub repairs: u32,
    /// Most characters of a prompt.
    pub prompt_chars: u32,
    /// Where pictures of products are.
    pub images: PictureFolder,
    /// The colour behind what is transparent in them, where a brief does not say it.
    pub ground: Ground,
}

impl PlannerSettings {
    /// The settings of a product without a config: scripts in one question, two repairs.
    pub fn new(images: PictureFolder) -> Self {
        Self {
            prompts: None,
            steps: Steps::Script,
            repairs: 2,
            prompt_chars: 1200,
            images,
            ground: Ground::default(),
        }
    }
}

enum Backend {
    Rules,
    Model {
        kind: BackendKind,
        chat: Box<dyn Chat>,
        sampling: Sampling,
        prompts: Box<Prompts>,
    },
}

/// Makes scripts of briefs.
pub struct Planner {
    backend: Backend,
    settings: PlannerSettings,
}

impl Planner {
    /// A planner that follows fixed rules.
    pub fn of_rules(settings: PlannerSettings) -> Self {
        Self {
            backend: Backend::Rules,
            settings,
        }
    }

    /// A planner that asks a model.
    ///
    /// # Errors
    /// A template is wrong.
    pub fn of_model(
        kind: BackendKind,
        chat: Box<dyn Chat>,
        sampling: Sampling,
        settings: PlannerSettings,
    ) -> Result<Self, PromptError> {
        let prompts = Box::new(Prompts::load(settings.prompts.as_deref())?);
        Ok(Self {
            backend: Backend::Model {
                kind,
                chat,
                sampling,
                prompts,
            },
            settings,
        })
    }

    /// What it is, for records.
    pub fn describe(&self) -> PlannerDescription {
        let recipe = self.recipe();
        PlannerDescription {
            backend: recipe.backend.name().to_owned(),
            // Plain data becomes JSON.
            recipe: serde_json::to_value(recipe).unwrap_or_default(),
        }
    }

    /// Whether plans of `before` are as good as those of this planner.
    pub fn continues(&self, before: &PlannerDescription) -> bool {
        let before = serde_json::from_value(before.recipe.clone());
        before.is_ok_and(|before| self.recipe().continues(&before))
    }

    /// What decides its scripts.
    pub fn recipe(&self) -> PlannerRecipe {
        let nothing = PlannerRecipe {
            backend: BackendKind::Rules,
            rules: None,
            model: None,
            templates: None,
            sampling: None,
            steps: None,
            repairs: 0,
            prompt_chars: self.settings.prompt_chars,
        };
        match &self.backend {
            Backend::Rules => PlannerRecipe {
                rules: Some(rules::VERSION),
                ..nothing
            },
            Backend::Model {
                kind,
                chat,
                sampling,
                prompts,
            } => PlannerRecipe {
                backend: *kind,
                model: Some(chat.identity()),
                templates: Some(prompts.version().clone()),
                sampling: Some(*sampling),
                steps: Some(self.settings.steps),
                repairs: self.settings.repairs,
                ..nothing
            },
        }
    }

    /// Briefs that it likes to work on at once.
    pub fn capacity(&self) -> usize {
        match &self.backend {
            Backend::Rules => 1,
            Backend::Model { chat, .. } => chat.capacity().max(1),
        }
    }

    /// Whether it can write the script of a brief at all.
    ///
    /// # Errors
    /// Why it cannot, with what to do.
    pub fn can_write(&self, brief: &Brief) -> Result<(), CannotWrite> {
        match &self.backend {
            Backend::Rules => BackendKind::Rules.can_write(brief),
            Backend::Model { kind, chat, .. } => {
                if needs_eyes(brief) && chat.identity().picture_side.is_none() {
                    return Err(CannotWrite::Blind);
                }
                kind.can_write(brief)
            }
        }
    }

    /// Makes a script. May be called from several threads.
    ///
    /// # Errors
    /// There is none; the class says whether another brief has better chances.
    pub fn plan_one(&self, request: &PlanRequest<'_>) -> Result<PlannedScript, PlanError> {
        let brief = request.brief;
        let bounds = Bounds::of(brief, self.settings.prompt_chars);
        self.can_write(brief)
            .map_err(|reason| PlanError::hopeless(reason.to_string()))?;
        match &self.backend {
            Backend::Rules => by_rules(brief, &bounds, request.seed),
            Backend::Model {
                chat,
                prompts,
                sampling,
                ..
            } => {
                let interview = Interview {
                    chat: chat.as_ref(),
                    prompts,
                    steps: self.settings.steps,
                    repairs: self.settings.repairs,
                    max_tokens: sampling.max_tokens,
                    bounds,
                    brief,
                    picture: self.picture(brief)?,
                    seed: request.seed,
                };
                interview.hold()
            }
        }
    }

    /// Makes scripts, as many at once as it likes to, and tells what came of each request as soon as it
    /// is known: its place among them, and the script. It does so from several threads.
    pub fn plan_each(&self, requests: &[PlanRequest<'_>], settle: &Settle<'_>) {
        if let Backend::Model { chat, .. } = &self.backend {
            chat.try_anew();
        }
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(position) = claim(&next, requests.len()) {
                settle(position, self.plan_one(&requests[position]));
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.capacity().min(requests.len()) {
                scope.spawn(work);
            }
            work();
        });
    }

    /// As [`plan_each`](Self::plan_each), but all at the end; the results are in the order of the
    /// requests.
    pub fn plan(&self, requests: &[PlanRequest<'_>]) -> Vec<Result<PlannedScript, PlanError>> {
        let results: Vec<Mutex<Option<_>>> = requests.iter().map(|_| Mutex::new(None)).collect();
        self.plan_each(requests, &|position, planned| {
            let mut place = results[position]
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *place = Some(planned);
        });
        let lost = || PlanError::new(ErrorClass::Run, "the planner ended without an answer");
        let results = results.into_iter().map(|place| {
            let place = place.into_inner().unwrap_or_else(PoisonError::into_inner);
            place.unwrap_or_else(|| Err(lost()))
        });
        results.collect()
    }

    fn picture(&self, brief: &Brief) -> Result<Option<Arc<Picture>>, PlanError> {
        let Some(path) = &brief.product_image else {
            return Ok(None);
        };
        let sha256 = brief.product_image_sha256.as_deref();
        let ground = brief.ground.unwrap_or(self.settings.ground);
        let picture = self.settings.images.load(path, sha256, ground);
        let picture = picture.map_err(|error| {
            let message = format!("the product image {path:?} cannot be used: {error}");
            PlanError::hopeless(message)
        })?;
        Ok(Some(Arc::new(picture)))
    }
}

impl std::fmt::Debug for Planner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.recipe().fmt(f)
    }
}

fn claim(next: &AtomicUsize, count: usize) -> Option<usize> {
    let position = next.fetch_add(1, Ordering::Relaxed);
    (position < count).then_some(position)
}

/// What rules make is checked like what models make; no seed makes a difference to what they can.
fn by_rules(brief: &Brief, bounds: &Bounds, seed: Seed) -> Result<PlannedScript, PlanError> {
    let (mut draft, unshown) = rules::draft(brief, bounds, seed);
    let mut notes = mend(&mut draft, brief, bounds);
    if let Some(finding) = check(&draft, brief, bounds).first() {
        return Err(PlanError::hopeless(format!(
            "the rules make no usable script of it: {finding}"
        )));
    }
    notes.extend(unshown);
    Ok(PlannedScript {
        notes,
        ..PlannedScript::plain(draft.into_script())
    })
}

#[cfg(test)]
mod tests {
    use storyloom_story::{BriefKind, Outlook, StoryId};

    use super::*;
    use storyloom_pictures::Limits;

    fn brief(id: &str, title: &str) -> Brief {
        Brief {
            title: Some(title.to_owned()),
            ..Brief::new(StoryId::new(id).unwrap())
        }
    }

    fn planner() -> Planner {
        let images = PictureFolder::new(".", Limits::default());
        Planner::of_rules(PlannerSettings::new(images))
    }

    #[test]
    fn many_briefs_come_back_in_their_order_and_the_same_every_time() {
        let briefs: Vec<_> = (0..5)
            .map(|number| brief(&format!("a{number}"), &format!("Lamp {number}x")))
            .collect();
        let requests: Vec<_> = briefs
            .iter()
            .map(|brief| PlanRequest {
                brief,
                seed: Seed::derive_plan(1, &brief.id, 0),
                attempt: 0,
            })
            .collect();
        let planner = planner();
        let all = planner.plan(&requests);
        assert_eq!(all, planner.plan(&requests));
        for (request, planned) in requests.iter().zip(all) {
            assert_eq!(planner.plan_one(request), planned);
            let name = planned.unwrap().script.name.unwrap();
            assert_eq!(Some(name.as_str()), request.brief.title.as_deref());
        }
    }

    #[test]
    fn rules_say_what_they_cannot_do() {
        let story = Brief {
            idea: Some("a fox".to_owned()),
            ..brief("a", "x")
        };
        assert_eq!(story.kind(), BriefKind::Story);
        let planner = planner();
        assert_eq!(planner.can_write(&story), Err(CannotWrite::Idea));
        let request = PlanRequest {
            brief: &story,
            seed: Seed(0),
            attempt: 0,
        };
        let error = planner.plan_one(&request).unwrap_err();
        assert_eq!(error.class, ErrorClass::Shot);
        assert_eq!(error.outlook, Outlook::Hopeless);
    }

    #[test]
    fn plans_of_earlier_rules_stay() {
        let now = planner().recipe();
        let with = |rules| PlannerRecipe {
            rules,
            ..now.clone()
        };
        assert!(now.continues(&now) && now.continues(&with(Some(1))));
        assert!(!now.continues(&with(Some(rules::VERSION + 1))));
        let shorter = PlannerRecipe {
            prompt_chars: 400,
            ..with(Some(1))
        };
        assert!(!now.continues(&shorter));
        // As an earlier version wrote it.
        let text = "{\"backend\":\"rules\",\"rules\":1,\"repairs\":0,\"prompt_chars\":1200}";
        assert!(now.continues(&serde_json::from_str(text).unwrap()));
    }

    #[test]
    fn a_model_may_be_served_elsewhere() {
        let at = |name: &str, endpoint: &str| PlannerRecipe {
            backend: BackendKind::Served,
            rules: None,
            model: Some(ModelIdentity {
                name: name.to_owned(),
                digest: None,
                endpoint: Some(endpoint.to_owned()),
                dtype: None,
                picture_side: Some(896),
            }),
            ..planner().recipe()
        };
        let now = at("qwen", "http://a/v1");
        assert!(now.continues(&at("qwen", "http://b/v1")));
        assert!(!now.continues(&at("llama", "http://a/v1")));
    }

    /// As `planner.json` of earlier runs has it.
    #[test]
    fn a_description_survives_the_way_to_json_and_back() {
        let planner = planner();
        let written = serde_json::to_string(&planner.describe()).unwrap();
        let wanted = "{\"backend\":\"rules\",\"recipe\":{\"backend\":\"rules\",\"rules\":2,\
                      \"repairs\":0,\"prompt_chars\":1200}}";
        let [written_value, wanted] = [written.as_str(), wanted]
            .map(|text| serde_json::from_str::<serde_json::Value>(text).unwrap());
        assert_eq!(written_value, wanted);
        let read: PlannerDescription = serde_json::from_str(&written).unwrap();
        assert_eq!(read, planner.describe());
        assert!(planner.continues(&read));
        assert_eq!(
            serde_json::from_value::<PlannerRecipe>(read.recipe).unwrap(),
            planner.recipe()
        );
    }
}
