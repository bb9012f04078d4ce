//! What docs/records-in-python.md says of records, arrays and noise.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use storyloom_nn::noise::{Stream, gaussian_values};
use storyloom_story::Seed;

use crate::harness::{Workshop, finish};

/// A block of the page, by its name.
fn block(name: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/records-in-python.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, block) = page.split_once(&format!("```python {name}\n")).unwrap();
    let (block, _) = block.split_once("```").unwrap();
    block.to_owned()
}

/// What Python writes when it runs `program`; `None` where there is none.
fn python(program: &str) -> Option<String> {
    let started = Command::new("python3")
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = match started {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            eprintln!("skipped: there is no python3");
            return None;
        }
        started => started.unwrap(),
    };
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(program.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn python_draws_the_noise_of_a_shot() {
    const COUNT: u64 = 10_003;
    let seeds = [0, 7, 1 << 53, u64::MAX];
    let streams = [Stream::Shot, Stream::Memory];
    // With numpy, too, where it is.
    let program = format!(
        "{noise}
try:
{numpy}
    ways = [lambda *of: noise(*of).tobytes(), lambda *of: fast_noise(*of).tobytes()]
except ImportError:
    ways = [lambda *of: noise(*of).tobytes()]
for way in ways:
    for seed in {seeds:?}:
        for stream in (0, 1):
            print(way(seed, stream, {COUNT}).hex())
",
        noise = block("noise"),
        numpy = block("numpy")
            .replace('\n', "\n    ")
            .replacen("", "    ", 1),
    );
    let Some(output) = python(&program) else {
        return;
    };
    assert!(!output.is_empty());
    let mut lines = output.lines().peekable();
    while lines.peek().is_some() {
        for seed in seeds {
            for stream in streams {
                let drawn = gaussian_values(Seed(seed), stream, 0..COUNT);
                let bytes = drawn.iter().flat_map(|value| value.to_le_bytes());
                let expected: String = bytes.map(|byte| format!("{byte:02x}")).collect();
                assert!(lines.next() == Some(&expected), "{stream:?} of seed {seed}");
            }
        }
    }
}

#[test]
fn the_reader_of_latents_is_python() {
    let program = format!("compile({:?}, 'page', 'exec')", block("decode"));
    python(&program);
}

/// Kind and shape of the array `value` of a blob.
fn array(out: &Path, blob: &Value) -> (String, Value) {
    let name = blob["blake3"].as_str().unwrap();
    let path = out.join(format!("blobs/{}/{name}.safetensors", &name[..2]));
    let bytes = fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let value = &header["value"];
    (
        value["dtype"].as_str().unwrap().to_owned(),
        value["shape"].clone(),
    )
}

#[test]
fn arrays_lie_where_the_page_says() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&[("ad", &[true, false])]);
    finish(&mut shop.run(&manifest, &[])).ended_with(0);
    let out = shop.out();
    let story = out.join("stories/ad");
    for (shot, opening) in [("01_01", "text"), ("01_02", "last-frame")] {
        let record = fs::read(story.join(format!("commits/{shot}.json"))).unwrap();
        let record: Value = serde_json::from_slice(&record).unwrap();
        assert_eq!(record["request"]["opening"], opening);
        assert_eq!(record["frame_size"], json!([64, 48]));
        // Nine frames were asked for, and made.
        let f32 = |shape: Value| ("F32".to_owned(), shape);
        assert_eq!(array(&out, &record["latents"]), f32(json!([16, 3, 6, 8])));
        let tail = ("U8".to_owned(), json!([5, 48, 64, 3]));
        assert_eq!(array(&out, &record["tail"]), tail);
        for keyframe in record["keyframes"].as_array().unwrap() {
            assert!(
                story
                    .join(keyframe["picture"]["file"].as_str().unwrap())
                    .is_file()
            );
            assert_eq!(array(&out, &keyframe["latents"]), f32(json!([16, 1, 6, 8])));
            let (kind, shape) = array(&out, &keyframe["embedding"]);
            assert_eq!((kind.as_str(), shape.as_array().unwrap().len()), ("F32", 1));
        }
    }
}
