//! Models in this program: one that says a script, and one that babbles.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use storyloom_models::language::LanguageSettings;
use storyloom_pictures::{Limits, PictureFolder};
use storyloom_story::{Brief, Language, StoryId};

use super::*;
use crate::planner::{BackendKind, PlanRequest, Planner, PlannerSettings};
use crate::schema::{Bounds, Draft, DraftShot, read_answer};
use crate::stub_models;

fn sampling() -> Sampling {
    Sampling {
        temperature: 0.7,
        top_p: 1.0,
        top_k: 0,
        max_tokens: 6000,
    }
}

fn start(folder: &Path, capacity: usize, stop: Stop) -> Result<Native, ChatError> {
    let settings = NativeSettings {
        name: "a model".to_owned(),
        dtype: "f32".to_owned(),
        capacity,
        sampling: sampling(),
        picture_side: 64,
        stop,
    };
    let folder = folder.to_owned();
    Native::start(settings, move || {
        LanguageModel::load(&folder, &LanguageSettings::default())
    })
}

fn planner(folder: &Path, capacity: usize, repairs: u32) -> Planner {
    let chat = start(folder, capacity, Arc::new(|| false)).unwrap();
    let images = PictureFolder::new(".", Limits::default());
    let settings = PlannerSettings {
        repairs,
        prompt_chars: 200,
        ..PlannerSettings::new(images)
    };
    Planner::of_model(BackendKind::Native, Box::new(chat), sampling(), settings).unwrap()
}

fn brief(id: &str) -> Brief {
    Brief {
        title: Some("Ember Kettle".to_owned()),
        shots: 2,
        ..Brief::new(StoryId::new(id).unwrap())
    }
}

fn script() -> String {
    let shot = |scene, prompt: &str, keyframe: &str| DraftShot {
        scene,
        cut: true,
        prompt: prompt.to_owned(),
        keyframe: keyframe.to_owned(),
    };
    let draft = Draft {
        title: "First light".to_owned(),
        overview: "A kettle wakes a cold kitchen.".to_owned(),
        product: Some("Ember kettle".to_owned()),
        shots: vec![
            shot(
                1,
                "Wide shot: a cold kitchen in blue light, frost on the glass.",
                "A cold kitchen, wide.",
            ),
            shot(
                2,
                "Close-up: the Ember kettle steams in warm light from the left.",
                "A kettle on a stove, close.",
            ),
        ],
    };
    serde_json::to_string(&draft).unwrap()
}

fn requests(briefs: &[Brief]) -> Vec<PlanRequest<'_>> {
    briefs
        .iter()
        .map(|brief| PlanRequest {
            brief,
            seed: Seed::derive_plan(1, &brief.id, 0),
            attempt: 0,
        })
        .collect()
}

#[test]
fn a_model_that_says_a_script_plans_it_for_several_at_once() {
    let folder = tempfile::tempdir().unwrap();
    stub_models::write(folder.path(), &script()).unwrap();
    let planner = planner(folder.path(), 3, 0);
    let briefs: Vec<_> = (0..5).map(|number| brief(&format!("a{number}"))).collect();
    for planned in planner.plan(&requests(&briefs)) {
        let planned = planned.unwrap();
        assert_eq!(planned.raw, script());
        assert_eq!(planned.script.shot_count(), 2);
        let TokenCount { prompt, completion } = planned.tokens;
        assert!(completion > 20 && prompt > 100, "{prompt} and {completion}");
    }
    let model = planner.recipe().model.unwrap();
    assert_eq!(model.digest.unwrap().len(), 64);
    assert_eq!(model.dtype.as_deref(), Some("f32"));
    assert_eq!(model.picture_side, None, "it sees none");
}

#[test]
fn a_model_is_kept_inside_the_schema_even_where_it_would_not_stay() {
    let folder = tempfile::tempdir().unwrap();
    // It wants to say something else than what the schema allows after the first token.
    stub_models::write(folder.path(), "Hello, I am a poet and not a planner.").unwrap();
    let native = start(folder.path(), 1, Arc::new(|| false)).unwrap();
    let bounds = Bounds {
        shots: 1,
        prompt: 60,
        product: false,
    };
    let question = ChatRequest {
        turns: vec![crate::chat::ChatMessage::user("Write.")],
        picture: None,
        schema: bounds.script(),
        seed: 3,
        needs_picture: false,
    };
    // The vocabulary has no token that JSON could begin with, so there is an error and no text.
    let error = native.ask(&question).unwrap_err();
    assert_eq!(error.class, ErrorClass::Shot, "{error}");
}

/// "Valid by construction": what a model writes that knows nothing can be read; the checks refuse
/// it, a bounded number of times.
#[test]
fn a_babbling_model_writes_scripts_that_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    stub_models::write_babble(folder.path(), 1).unwrap();
    let planner = planner(folder.path(), 2, 1);
    let mut briefs: Vec<_> = (0..2).map(|number| brief(&format!("b{number}"))).collect();
    // No letter that is drawn by chance is likely to be one of these.
    for brief in &mut briefs {
        brief.language = Language::new("th").unwrap();
    }
    let all = planner.plan(&requests(&briefs));
    for (result, brief) in all.iter().zip(&briefs) {
        let error = result.as_ref().unwrap_err();
        assert_eq!(error.class, ErrorClass::Shot);
        assert!(error.message.contains("after 1 repairs"), "{error}");
        let answers: Vec<_> = error.raw.split("\n\n").collect();
        assert_eq!(answers.len(), 2);
        for answer in answers {
            let draft: Draft = read_answer(answer).unwrap();
            assert_eq!(draft.shots.len(), brief.shots as usize);
        }
    }
    // The same alone as beside others.
    assert_eq!(planner.plan_one(&requests(&briefs)[1]), all[1]);
}

#[test]
fn a_stop_ends_questions() {
    let folder = tempfile::tempdir().unwrap();
    stub_models::write_babble(folder.path(), 2).unwrap();
    let stopped = Arc::new(AtomicBool::new(true));
    let flag = Arc::clone(&stopped);
    let native = start(
        folder.path(),
        1,
        Arc::new(move || flag.load(Ordering::Relaxed)),
    )
    .unwrap();
    let question = ChatRequest {
        turns: vec![crate::chat::ChatMessage::user("Write.")],
        picture: None,
        schema: Bounds::of(&brief("c"), 200).script(),
        seed: 3,
        needs_picture: false,
    };
    assert_eq!(
        native.ask(&question).unwrap_err().class,
        ErrorClass::Interrupted
    );
    stopped.store(false, Ordering::Relaxed);
    assert!(native.ask(&question).is_ok());
}

/// Replaces the template of a model that says `script()`.
fn with_template(folder: &Path, template: &str) {
    stub_models::write(folder, &script()).unwrap();
    std::fs::write(folder.join("chat_template.jinja"), template).unwrap();
}

/// How the model of [`stub_models`] wants its turn to open.
const OPENING: &str = "{% if add_generation_prompt %}<|assistant|>{% endif %}";

#[test]
fn templates_without_rules_or_with_lists_alone_are_planned_with() {
    let folder = tempfile::tempdir().unwrap();
    for turns in [
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}\
         <|user|>{{ m.content }}{% endfor %}",
        "{% for m in messages %}<|user|>{% generation %}{{ m.content[0].text }}{% endgeneration %}{% endfor %}",
    ] {
        with_template(folder.path(), &format!("{turns}{OPENING}"));
        let planned = planner(folder.path(), 1, 0).plan(&requests(&[brief("a")]));
        assert_eq!(planned[0].as_ref().unwrap().raw, script(), "{turns}");
    }
}

#[test]
fn a_template_that_no_conversation_can_be_held_with_is_told_before_anybody_asks() {
    let folder = tempfile::tempdir().unwrap();
    for turns in [
        "{{ raise_exception('not for talking') }}",
        "{% if messages|length > 2 %}{{ raise_exception('not for talking') }}{% endif %}{{ messages }}",
    ] {
        with_template(folder.path(), &format!("{turns}{OPENING}"));
        let error = start(folder.path(), 1, Arc::new(|| false)).err().unwrap();
        assert_eq!(error.class, ErrorClass::Run);
        assert!(error.message.contains("not for talking"), "{error}");
    }
}

#[test]
fn a_folder_that_is_no_model_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let error = start(folder.path(), 1, Arc::new(|| false)).err().unwrap();
    assert_eq!(error.class, ErrorClass::Run);
}
