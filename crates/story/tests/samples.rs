//! Samples of Narrative Weaver: every way one can be wrong, what they ask for, and the way there and back.
//!
//! Narrative Weaver specification, section 1.2.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use proptest::prelude::*;
use storyloom_story::narrative_weaver::{
    ConditionImage, FilterNotes, Reference, Role, RunNotes, Sample, SampleError, SampleFiles,
    SamplePlan, SampleProduct, SampleShot, Task, Use, read_samples,
};
use storyloom_story::{Findings, Language, Resolution, StoryId};

/// The line of the specification.
const SAMPLE: &str = concat!(
    r#"{"schema":"storyloom.nw.sample/1","id":"eavsd-000123","use":"q3","lang":"en","size":[512,512],"#,
    r#""instruction":"Plan an 8-shot storyboard that sells the product in the image.","#,
    r#""condition_images":[{"path":"img/000123/product.png","sha256":"#,
    r#""0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef","role":"product"}],"#,
    r#""product":{"title":"Mug","selling_points":["keeps warm","no noise"],"promo":"Half price"},"#,
    r#""reference":{"prompt":"A mug.","image":"img/000123/ref.png"},"#,
    r#""plan":{"overview":"A slow morning.","shots":["#,
    r#"{"n":1,"text":"Steam.","camera":"slow push-in","scene":"kitchen","image":"img/000123/k01.png"},"#,
    r#"{"n":2,"text":"A sip.","camera":"still","scene":"kitchen","image":"img/000123/k02.png"}]},"#,
    r#""filter":{"judge":"Qwen2.5-VL-32B","artifact_free":true,"entity_kept":true,"style_ok":false},"#,
    r#""seed":123}"#
);

/// A folder with everything in it but `gone.png`.
struct Folder;

impl SampleFiles for Folder {
    fn picture(&self, path: &str, sha256: Option<&str>) -> Result<(), String> {
        match (path, sha256) {
            ("gone.png", _) => Err("no such file".to_owned()),
            (_, Some(digest)) if digest.starts_with("ff") => Err("another SHA-256".to_owned()),
            _ => Ok(()),
        }
    }
}

fn shown(findings: &Findings) -> String {
    let told: Vec<_> = findings.problems.iter().map(ToString::to_string).collect();
    told.join("\n")
}

/// A line with nothing but what it must have, where `from` is written as `to`.
fn line(from: &str, to: &str) -> String {
    let least = concat!(
        r#"{"schema": "storyloom.nw.sample/1", "id": "a", "use": "q2", "lang": "en", "size": [512, 512], "#,
        r#""instruction": "Tell it.", "condition_images": [{"path": "a.png"}], "seed": 7}"#
    );
    assert!(least.contains(from), "{from}");
    least.replacen(from, to, 1)
}

/// A line with these keys more.
fn more(keys: &str) -> String {
    line("\"seed\": 7", &format!("\"seed\": 7, {keys}"))
}

fn read(text: &str) -> Sample {
    let (mut samples, findings) = read_samples("s.jsonl", text, &Folder);
    assert_eq!(shown(&findings), "", "{text}");
    assert!(findings.warnings.is_empty(), "{:?}", findings.warnings);
    assert_eq!(samples.len(), 1);
    samples.remove(0)
}

#[track_caller]
fn expect(line: &str, wanted: &str) {
    let (samples, findings) = read_samples("s.jsonl", &format!("\n{line}\n"), &Folder);
    let found = shown(&findings);
    assert!(samples.is_empty(), "{line} was read as {samples:?}");
    assert!(
        found.contains(wanted),
        "{line}\ngives {found}\nnot   {wanted}"
    );
    assert!(
        found
            .lines()
            .all(|line| line.starts_with("s.jsonl:2:") && line.contains("; "))
    );
}

#[test]
fn the_line_of_the_specification_is_read_and_written_as_it_stands() {
    let sample = read(SAMPLE);
    assert_eq!((sample.use_, sample.task()), (Use::Q3, Task::Compare));
    assert_eq!(
        sample.size,
        Resolution {
            width: 512,
            height: 512
        }
    );
    assert_eq!(sample.condition_images[0].role, Some(Role::Product));
    assert_eq!(
        sample.reference.as_ref().unwrap().image,
        "img/000123/ref.png"
    );
    let shot = &sample.plan.as_ref().unwrap().shots[1];
    assert_eq!(
        (shot.text.as_str(), shot.camera.as_deref()),
        ("A sip.", Some("still"))
    );
    let filter = sample.filter.as_ref().unwrap();
    assert!(filter.artifact_free && filter.entity_kept && !filter.style_ok);
    assert_eq!(sample.line().unwrap(), SAMPLE);
}

#[test]
fn a_sample_asks_for_a_plan_or_for_pictures_or_for_nothing() {
    assert_eq!(read(&line("q2", "q2")).task(), Task::PlanAndDraw);
    assert_eq!(read(&more("\"plan\": null")).task(), Task::PlanAndDraw);
    let plan =
        |image| format!("\"plan\": {{\"shots\": [{{\"n\": 1, \"text\": \"A dog.\"{image}}}]}}");
    let given = more(&plan(""));
    assert_eq!(read(&given).task(), Task::Draw);
    assert_eq!(read(&given.replace("q2", "q1")).task(), Task::Draw);
    assert_eq!(
        read(&more(&plan(", \"image\": \"k.png\""))).task(),
        Task::Compare
    );
}

#[test]
fn every_mistake_is_told_with_its_line_and_a_way_out() {
    for key in [
        "schema",
        "id",
        "use",
        "lang",
        "size",
        "instruction",
        "condition_images",
        "seed",
    ] {
        let quoted = format!("\"{key}\"");
        expect(
            &line(&quoted, &format!("\"un{key}\"")),
            &format!("the sample has no \"{key}\""),
        );
    }
    for (from, to, wanted) in [
        ("sample/1", "sample/2", "there is no schema"),
        ("\"a\"", "\"a b\"", "has the character ' '"),
        ("\"q2\"", "\"q4\"", "there is no use \"q4\""),
        ("\"q2\"", "\"q1\"", "a sample of use \"q1\" has no \"plan\""),
        ("\"en\"", "\"english\"", "is no language tag"),
        ("[512, 512]", "[512, 511]", "the nearest is 512"),
        ("[512, 512]", "512", "\"size\" must be a list"),
        ("\"Tell it.\"", "\" \"", "\"instruction\" is empty"),
        (
            "\"Tell it.\"",
            "\"Tell\\u001b it.\"",
            "has a control character",
        ),
        (
            "[{\"path\": \"a.png\"}]",
            "[]",
            "there is no condition image",
        ),
        (
            "{\"path\": \"a.png\"}",
            "\"a.png\"",
            "the condition image must be an object",
        ),
        (
            "\"path\": \"a.png\"",
            "\"role\": \"product\"",
            "the condition image has no \"path\"",
        ),
        (
            "\"a.png\"",
            "\"gone.png\"",
            "\"gone.png\" cannot be used: no such file (story a)",
        ),
        (
            "\"a.png\"",
            "\"a.png\", \"sha256\": \"ab\"",
            "\"sha256\" is no SHA-256",
        ),
        (
            "\"a.png\"",
            "\"a.png\", \"role\": \"hero\"",
            "the only role is \"product\"",
        ),
        ("7}", "-7}", "\"seed\" must be a whole number"),
        ("7}", "7, \"seeds\": [7]}", "did you mean \"seed\"?"),
        ("7}", "7, \"seed\": 7}", "the key \"seed\" twice"),
    ] {
        expect(&line(from, to), wanted);
    }
    let digest = format!("\"a.png\", \"sha256\": \"{}\"", "f".repeat(64));
    expect(&line("\"a.png\"", &digest), "another SHA-256");
}

#[test]
fn mistakes_of_the_parts_are_told() {
    let filter = "\"filter\": {\"judge\": \"me\", \"artifact_free\": true, \"entity_kept\": true";
    for (keys, wanted) in [
        (
            "\"product\": {\"name\": \"Mug\"}",
            "the product has the unknown key \"name\"",
        ),
        (
            "\"product\": {\"selling_points\": [\"\"]}",
            "\"selling_points\" is empty",
        ),
        (
            "\"reference\": {\"prompt\": \"A mug.\"}",
            "the reference has no \"image\"",
        ),
        (
            "\"reference\": {\"prompt\": \"A mug.\", \"image\": \"gone.png\"}",
            "no such file",
        ),
        (
            "\"plan\": {\"overview\": \"x\"}",
            "the plan has no \"shots\"",
        ),
        ("\"plan\": {\"shots\": []}", "\"shots\" is empty"),
        (
            "\"plan\": {\"shots\": [{\"n\": 2, \"text\": \"x\"}]}",
            "\"n\" is 2 where 1 must stand",
        ),
        (
            "\"plan\": {\"shots\": [{\"n\": 1, \"text\": \"x\"}, {\"n\": 1, \"text\": \"y\"}]}",
            "two shots have \"n\" 1",
        ),
        (
            "\"plan\": {\"shots\": [{\"text\": \"x\"}]}",
            "the shot has no \"n\"",
        ),
        (
            "\"plan\": {\"shots\": [{\"n\": 1}]}",
            "the shot has no \"text\"",
        ),
        (
            "\"plan\": {\"shots\": [{\"n\": 1, \"text\": \"x\", \"image\": \"gone.png\"}]}",
            "no such file",
        ),
        (
            "\"plan\": {\"shots\": [{\"n\": 1, \"text\": \"x\", \"image\": \"k.png\"}, {\"n\": 2, \"text\": \"y\"}]}",
            "but shot 2 has none; give every shot its image",
        ),
        (&format!("{filter}}}"), "the filter has no \"style_ok\""),
        (
            &format!("{filter}, \"style_ok\": \"yes\"}}"),
            "must be true or false, but is a text",
        ),
        ("\"run\": {}", "the run has no \"config_hash\""),
    ] {
        expect(&more(keys), wanted);
    }
}

#[test]
fn what_a_run_says_belongs_to_what_it_has_made() {
    let plan = "\"plan\": {\"shots\": [{\"n\": 1, \"text\": \"A dog.\", \"image\": \"k.png\"}]}";
    let run = |seeds: &str, seconds: &str| {
        format!(
            "\"run\": {{\"config_hash\": \"ab\", \"seeds\": {seeds}, \"memory_lengths\": [0], \"steps\": 28, \
             \"wall_seconds\": {seconds}}}"
        )
    };
    let made = read(&more(&format!(
        "{plan}, {}",
        run("[\"18446744073709551615\"]", "1.5")
    )));
    assert_eq!(made.run.as_ref().unwrap().seeds, [u64::MAX]);
    expect(&more(&run("[1]", "1.5")), "but the plan has no images");
    expect(
        &more(&format!("{plan}, {}", run("[1, 2]", "1.5"))),
        "\"seeds\" has 2 entries, and the plan has 1 shots",
    );
    expect(
        &more(&format!("{plan}, {}", run("[1]", "-1"))),
        "no number of seconds",
    );
    expect(
        &more(&format!("{plan}, {}", run("[1]", "true"))),
        "but is true or false",
    );
    // What a run writes is read as what it has made.
    let asked = read(&line("q2", "q2"));
    let (plan, run) = (made.plan.clone().unwrap(), made.run.clone().unwrap());
    let output = asked.clone().made(plan.clone(), run.clone()).unwrap();
    assert_eq!(output.task(), Task::Compare);
    assert_eq!(read(&output.line().unwrap()), output);
    let mut blank = plan.clone();
    blank.shots[0].image = None;
    assert_eq!(
        asked.clone().made(blank, run.clone()),
        Err(SampleError::NothingMade)
    );
    let long = RunNotes {
        memory_lengths: vec![0, 1],
        ..run
    };
    let error = asked.made(plan, long).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("\"memory_lengths\" has 2 entries"),
        "{error}"
    );
}

#[test]
fn names_are_unique_and_other_lines_go_on() {
    let text = format!(
        "\u{feff}{}\n\n{}\n{}\n{}\n",
        line("\"a\"", "\"x\""),
        line("\"a\"", "\"x\""),
        line("\"seed\"", "\"sed\""),
        line("\"a\"", "\"X\"")
    );
    let (samples, findings) = read_samples("s.jsonl", &text, &());
    let names: Vec<_> = samples.iter().map(|sample| sample.id.as_str()).collect();
    assert_eq!(names, ["x", "X"]);
    let told = shown(&findings);
    assert!(
        told.contains("s.jsonl:3:") && told.contains("already used on line 1"),
        "{told}"
    );
    assert!(
        told.contains("s.jsonl:4:") && told.contains("did you mean \"seed\"?"),
        "{told}"
    );
    assert!(findings.warnings[0].message.contains("differ only in case"));
    let (none, findings) = read_samples("s.jsonl", "\n", &());
    assert!(none.is_empty() && shown(&findings).contains("there is no sample"));
    assert!(shown(&read_samples("s.jsonl", "{\"a\"", &()).1).contains("not valid JSON"));
}

#[test]
fn what_cannot_be_read_is_not_written() {
    let good = read(SAMPLE);
    let bad = |change: &dyn Fn(&mut Sample)| {
        let mut sample = good.clone();
        change(&mut sample);
        let error = sample.line().unwrap_err();
        assert!(!error.help().is_empty());
        error
    };
    assert_eq!(
        bad(&|sample| sample.instruction = "\u{7}".to_owned()),
        SampleError::Text { key: "instruction" }
    );
    assert_eq!(
        bad(&|sample| sample.condition_images.clear()),
        SampleError::NoConditionImage
    );
    assert_eq!(
        bad(&|sample| sample.plan.as_mut().unwrap().shots.clear()),
        SampleError::NoShot
    );
    assert_eq!(
        bad(&|sample| sample.plan.as_mut().unwrap().shots[0].image = None),
        SampleError::SomeImages { without: 1 }
    );
    let nothing = bad(&|sample| {
        sample.use_ = Use::Q1;
        sample.plan = None;
    });
    assert_eq!(nothing, SampleError::NoPlan);
}

fn text() -> impl Strategy<Value = String> {
    // Everything that JSON and messages must take care of, around a letter.
    "[ -~\"\\\\éß日\n\t]{0,6}[a-z][ -~é\u{1f600}]{0,6}"
}

fn some_text() -> impl Strategy<Value = Option<String>> {
    prop::option::of(text())
}

fn condition_image() -> impl Strategy<Value = ConditionImage> {
    let sha256 = prop::option::of("[0-9a-f]{64}");
    let role = prop::option::of(Just(Role::Product));
    (text(), sha256, role).prop_map(|(path, sha256, role)| ConditionImage { path, sha256, role })
}

fn plan() -> impl Strategy<Value = SamplePlan> {
    let shot = (text(), some_text(), some_text(), text());
    let shots = prop::collection::vec(shot, 1..4);
    (some_text(), shots, any::<bool>()).prop_map(|(overview, shots, drawn)| {
        let shots = shots
            .into_iter()
            .map(|(text, camera, scene, image)| SampleShot {
                text,
                camera,
                scene,
                image: drawn.then_some(image),
            });
        SamplePlan {
            overview,
            shots: shots.collect(),
        }
    })
}

fn run(shots: usize) -> impl Strategy<Value = RunNotes> {
    let list = || prop::collection::vec(any::<u64>(), shots);
    (text(), list(), list(), any::<u32>(), 0.0_f64..1e9).prop_map(
        |(config_hash, seeds, memory_lengths, steps, wall_seconds)| RunNotes {
            config_hash,
            seeds,
            memory_lengths,
            steps,
            wall_seconds,
        },
    )
}

prop_compose! {
    fn product()(title in some_text(), selling_points in prop::collection::vec(text(), 0..3), promo in some_text())
        -> SampleProduct {
        SampleProduct { title, selling_points, promo }
    }
}

prop_compose! {
    fn filter()(judge in text(), flags in any::<[bool; 3]>()) -> FilterNotes {
        let [artifact_free, entity_kept, style_ok] = flags;
        FilterNotes { judge, artifact_free, entity_kept, style_ok }
    }
}

prop_compose! {
    fn sample()(
        id in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,9}",
        (use_, plan) in prop_oneof![
            (Just(Use::Q1), plan().prop_map(Some)),
            (prop_oneof![Just(Use::Q2), Just(Use::Q3)], prop::option::of(plan())),
        ],
        sides in prop::array::uniform2(32_u32..2049),
        instruction in text(),
        condition_images in prop::collection::vec(condition_image(), 1..3),
        product in prop::option::of(product()),
        reference in prop::option::of((text(), text())),
        filter in prop::option::of(filter()),
        seed in any::<u64>(),
        notes in prop::option::of(run(4)),
    ) -> Sample {
        let [width, height] = sides.map(|half| half * 2);
        let mut sample = Sample {
            id: StoryId::new(id).unwrap(),
            use_,
            lang: Language::new("pt-BR").unwrap(),
            size: Resolution { width, height },
            instruction,
            condition_images,
            product,
            reference: reference.map(|(prompt, image)| Reference { prompt, image }),
            plan,
            filter,
            seed,
            run: None,
        };
        if sample.task() == Task::Compare {
            let shots = sample.plan.as_ref().map_or(0, |plan| plan.shots.len());
            sample.run = notes.map(|mut notes| {
                notes.seeds.truncate(shots);
                notes.memory_lengths.truncate(shots);
                notes
            });
        }
        sample
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(sample in sample()) {
        let line = sample.line().unwrap();
        prop_assert!(!line.contains('\n'));
        let (samples, findings) = read_samples("s.jsonl", &line, &());
        prop_assert_eq!(shown(&findings), "");
        prop_assert!(findings.warnings.is_empty());
        prop_assert_eq!(samples, [sample]);
    }

    /// Nothing that stands in a file makes the reader fail, and a sample with a problem is never handed out.
    #[test]
    fn broken_lines_are_told(at in any::<prop::sample::Index>(), with in "[\"{}\\[\\],:a0-9é]{0,2}") {
        let mut chars: Vec<char> = SAMPLE.chars().collect();
        let at = at.index(chars.len());
        chars.splice(at..=at, with.chars());
        let text: String = chars.into_iter().collect();
        let (samples, findings) = read_samples("s.jsonl", &text, &());
        prop_assert_eq!(samples.is_empty(), !findings.problems.is_empty(), "{}", shown(&findings));
        for sample in samples {
            prop_assert!(sample.line().is_ok());
        }
    }
}
