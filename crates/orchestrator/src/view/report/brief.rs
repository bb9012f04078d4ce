//! What a story's page says of its brief and its plan.

use serde::Serialize;
use storyloom_story::Brief;

use super::text::duration;
use crate::folder::plan_record::PlanRecord;
use crate::folder::plans::read_plan;
use crate::folder::run_folder::{RunFolder, StoryFile};

/// The brief of a story and what became of it.
#[derive(Debug, Serialize)]
pub(super) struct BriefView {
    /// What it asks for, by name.
    pub facts: Vec<(&'static str, String)>,
    pub plan: Option<PlanView>,
}

/// A plan.
#[derive(Debug, Serialize)]
pub(super) struct PlanView {
    pub seconds: String,
    pub backend: String,
    pub recipe: Vec<(String, String)>,
    pub notes: Vec<String>,
    /// What the model wrote.
    pub text: String,
}

/// Of a story that has a brief. A plan that cannot be read counts as not there; `verify` tells.
pub(super) fn view(folder: &RunFolder, file: &StoryFile) -> Option<BriefView> {
    let brief = file.brief.as_deref()?;
    let plan = read_plan(folder, &file.id).unwrap_or_else(|error| {
        tracing::warn!(%error, story = %file.id, "counted as not planned");
        None
    });
    Some(BriefView {
        facts: facts(brief),
        plan: plan.map(plan_view),
    })
}

fn facts(brief: &Brief) -> Vec<(&'static str, String)> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let size = brief.size;
    let all = [
        ("title", text(&brief.title)),
        ("selling points", brief.selling_points.join("; ")),
        ("offer", text(&brief.promo)),
        ("idea", text(&brief.idea)),
        ("instruction", text(&brief.instruction)),
        ("product image", text(&brief.product_image)),
        ("shots", brief.shots.to_string()),
        ("style", text(&brief.style)),
        ("language", brief.language.to_string()),
        (
            "size",
            size.map_or_else(String::new, |size| {
                format!("{} × {}", size.width, size.height)
            }),
        ),
    ];
    all.into_iter()
        .filter(|(_, value)| !value.is_empty())
        .collect()
}

fn plan_view(plan: PlanRecord) -> PlanView {
    let own = [
        ("seed", plan.seed.0.to_string()),
        ("attempt", (plan.attempt + 1).to_string()),
        ("repairs", plan.repairs.to_string()),
        (
            "tokens",
            format!("{} read, {} written", plan.tokens_read, plan.tokens),
        ),
        ("batch", format!("{} at once", plan.batch)),
    ];
    let mut recipe: Vec<(String, String)> = own
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    let details = plan.planner.recipe.as_object();
    recipe.extend(details.into_iter().flatten().map(|(name, value)| {
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        (name.clone(), value)
    }));
    recipe.extend(
        plan.reference
            .map(|prompt| ("reference".to_owned(), prompt)),
    );
    recipe.extend(
        plan.picture
            .map(|digest| ("picture sha256".to_owned(), digest)),
    );
    let departures = plan.departures.into_iter();
    recipe.extend(departures.map(|departure| ("asked otherwise".to_owned(), departure)));
    recipe.push(("record".to_owned(), "plan.json".to_owned()));
    recipe.push(("record blake3".to_owned(), plan.digest));
    PlanView {
        seconds: duration(plan.seconds),
        backend: plan.planner.backend,
        recipe,
        notes: plan.notes,
        text: plan.text,
    }
}
