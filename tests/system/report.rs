//! The report as people use it: in a real browser, from disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::browser::Browser;
use crate::harness::{Workshop, finish, line, of_method, write_sealed};

/// Markup in every place where a user may write something.
const MARKUP: &str =
    "\"><img src=x onerror=\"window.hurt=1\"></script><script>window.hurt=1</script>";

/// A run of three stories with videos, of which one is then given up.
fn made() -> Workshop {
    let shop = Workshop::new();
    let story = |id: &str, name: &str, shots: usize| {
        let prompts: Vec<_> = (1..=shots).map(|n| format!("{n}: {MARKUP}")).collect();
        let cuts: Vec<bool> = (0..shots).map(|n| n % 3 != 2).collect();
        let scene = json!({"scene_num": 1, "video_prompts": prompts, "cut": cuts});
        let script = json!({"story_name": name, "story_overview": MARKUP, "scenes": [scene]});
        json!({"id": id, "script": script, "tenant": "north"}).to_string()
    };
    let lines = [
        story("tale", &format!("The tale {MARKUP}"), 4),
        story("ad", "An ad", 2),
        story("lost", "A lost one", 2),
    ];
    let manifest = shop.write("manifest.jsonl", lines.join("\n"));
    finish(&mut shop.run(&manifest, &[])).ended_with(0);
    change(&shop, "lost", |story| {
        story["state"] = json!({"state": "failed", "shot": "01_02", "reason": MARKUP});
        story["video"] = Value::Null;
    });
    fs::remove_file(shop.out().join("stories/lost/commits/01_02.json")).unwrap();
    shop
}

/// Changes the file of a story.
fn change(shop: &Workshop, id: &str, change: impl FnOnce(&mut Value)) {
    let path = shop.out().join("stories").join(id).join("story.json");
    let mut story = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut story);
    write_sealed(&path, story);
}

/// Writes the report and returns its first page.
fn report(shop: &Workshop) -> PathBuf {
    let written = shop.ask(&["report"]).ended_with(0);
    PathBuf::from(written.stdout.trim())
}

fn names(browser: &mut Browser) -> Vec<String> {
    let names = "[...document.querySelectorAll('#rows a')].map((link) => link.textContent)";
    serde_json::from_value(browser.eval(names)).unwrap()
}

#[test]
fn a_report_is_clicked_through() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let shop = made();
    let page = report(&shop);
    browser.open(&page);
    let tale = format!("The tale {MARKUP}");
    assert_eq!(names(&mut browser), [tale.as_str(), "An ad", "A lost one"]);

    browser.click("#words");
    browser.write("AD");
    assert_eq!(names(&mut browser), ["An ad"]);
    assert_eq!(
        browser.text("document.querySelector('#found').textContent"),
        "1 story"
    );
    browser.eval("document.querySelector('#words').value = ''; document.querySelector('#words').dispatchEvent(new Event('input'))");
    browser.click("[value=failed] + span");
    assert_eq!(names(&mut browser), ["A lost one"]);
    browser.click("[value=''] + span");
    browser.click("[data-key=name] button");
    assert_eq!(names(&mut browser), ["A lost one", "An ad", tale.as_str()]);
    browser.click("[data-key=name] button");
    let sorted = "document.querySelector('[data-key=name]').getAttribute('aria-sort')";
    assert_eq!(browser.text(sorted), "descending");
    assert_eq!(names(&mut browser)[0], tale);
    browser.was_content();

    // Back from a story, the table is as it was left.
    browser.click("#rows a");
    browser.until(
        "location.pathname.endsWith('/stories/tale.html') && document.readyState === 'complete'",
    );
    assert_eq!(
        browser.text("document.querySelector('h1').textContent"),
        tale
    );
    browser.was_content();
    browser.eval("setTimeout(() => history.back())");
    browser.until("location.pathname.endsWith('index.html') && document.readyState === 'complete'");
    assert_eq!(browser.text(sorted), "descending");
    browser.was_content();
}

#[test]
fn the_shots_of_a_report_play() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let shop = made();
    report(&shop);
    browser.open(&shop.out().join("report/stories/tale.html"));
    let video = |number: usize| format!("document.querySelectorAll('.shot video')[{number}]");
    let plays = |number: usize| {
        let video = video(number);
        format!("!{video}.paused && {video}.currentTime > 0 && {video}.videoWidth === 64")
    };
    assert_eq!(
        browser.eval("document.querySelectorAll('.shot video').length"),
        4
    );
    // A second of video is over soon, which would be as if it had never played.
    browser.eval(
        "for (const video of document.querySelectorAll('video')) video.playbackRate = 0.0625",
    );
    browser.click("#shot-01_01 .play");
    browser.until(&plays(0));
    browser.click("#shot-01_03 .play");
    browser.until(&plays(2));
    assert_eq!(
        browser.eval(&format!("{}.paused", video(0))),
        true,
        "one at a time"
    );
    // The whole story, by keyboard.
    browser.eval("document.querySelector('.whole .play').focus()");
    browser.press("Enter");
    browser.until("document.querySelector('.whole video').currentTime > 0");
    assert_eq!(browser.text("document.activeElement.tagName"), "VIDEO");
    let pictures = "[...document.images, ...document.querySelectorAll('svg image')].length > 10 \
                    && [...document.images].every((image) => image.complete && image.naturalWidth)";
    browser.eval("for (const image of document.images) image.loading = 'eager'");
    browser.until(pictures);
    browser.was_content();

    // A shot that is not there says so, why, and what to do.
    browser.open(&shop.out().join("report/stories/lost.html"));
    let text = browser.text("document.querySelector('.attention').textContent");
    assert!(
        text.contains("Given up at shot 01_02") && text.contains(MARKUP),
        "{text}"
    );
    let retry = format!("storyloom retry {} lost", shop.out().display());
    assert!(text.contains(&retry), "{text}");
    assert_eq!(
        browser.eval("document.querySelectorAll('.shot .blank').length"),
        1
    );
    browser.was_content();
}

#[test]
fn markup_in_a_story_stays_text() {
    let shop = made();
    let page = report(&shop);
    let root = page.parent().unwrap();
    for page in ["index.html", "stories/tale.html", "stories/lost.html"] {
        let html = fs::read_to_string(root.join(page)).unwrap();
        assert!(
            !html.contains("<script>") && !html.contains("<img src=x"),
            "{page}"
        );
        assert!(html.contains("window.hurt"), "{page} has the text");
        assert!(
            !html.contains("http:") && !html.contains("https:"),
            "{page} needs a network"
        );
    }
    let Some(mut browser) = Browser::start() else {
        return;
    };
    for page in ["index.html", "stories/tale.html", "stories/lost.html"] {
        browser.open(&root.join(page));
        assert_eq!(browser.eval("window.hurt === undefined"), true, "{page}");
        assert_eq!(
            browser.eval("document.querySelectorAll('[src=x]').length"),
            0,
            "{page}"
        );
        browser.was_content();
    }
}

/// Every file below `folder` with its time of change.
fn times(folder: &Path) -> BTreeMap<PathBuf, SystemTime> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.append(&mut times(&path));
        } else {
            let changed = fs::metadata(&path).unwrap().modified().unwrap();
            found.insert(path, changed);
        }
    }
    found
}

#[test]
fn only_what_changed_is_written_again() {
    let shop = made();
    let page = report(&shop);
    let root = page.parent().unwrap();
    let mut first = times(root);
    assert!(
        first
            .keys()
            .any(|path| path.ends_with("pictures/tale/row.jpg"))
    );
    let again = shop
        .ask(&["report"])
        .ended_with(0)
        .saying("0 of them changed");
    assert_eq!(again.stdout.trim(), page.display().to_string());
    // What the report remembers for itself is no page.
    let cache = root.join("cache.json");
    let mut second = times(root);
    first.remove(&cache);
    second.remove(&cache);
    assert_eq!(first, second);

    change(&shop, "ad", |story| {
        story["script"]["story_name"] = json!("Another ad")
    });
    shop.ask(&["report"])
        .ended_with(0)
        .saying("1 of them changed");
    let third = times(root);
    let changed: Vec<_> = second
        .iter()
        .filter(|(path, time)| third[*path] != **time)
        .collect();
    let changed: Vec<_> = changed
        .iter()
        .map(|(path, _)| path.strip_prefix(root).unwrap())
        .collect();
    assert_eq!(
        changed,
        ["data/0.js", "index.html", "stories/ad.html"].map(Path::new)
    );

    // A page that somebody removed comes back.
    fs::remove_file(root.join("stories/tale.html")).unwrap();
    shop.ask(&["report"])
        .ended_with(0)
        .saying("1 of them changed");
    assert!(root.join("stories/tale.html").is_file());
}

/// A folder of `count` stories that are copies of one, in every state but done.
fn many(count: usize) -> Workshop {
    let shop = Workshop::new();
    let manifest = shop.manifest(&[("story-00000", &[true; 10])]);
    let sets = [
        "simulated.videos=false",
        "video.width=16",
        "video.height=16",
        "video.frames=1",
    ];
    finish(&mut shop.run(&manifest, &sets)).ended_with(0);
    let read = |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let stories = shop.out().join("stories");
    let story = read(&stories.join("story-00000/story.json"));
    let mut ids = vec!["story-00000".to_owned()];
    for number in 1..count {
        let id = format!("story-{number:05}");
        let mut copy = story.clone();
        copy["id"] = json!(id);
        copy["script"]["story_name"] = json!(format!("The {number}th evening at the harbour"));
        copy["tenant"] = json!(["north", "south"][number % 2]);
        copy["state"] = match number % 10 {
            0 => json!({"state": "failed", "shot": "01_01", "reason": "the picture is black"}),
            1 => json!({"state": "quarantined", "shot": "01_02", "reason": "no colours at all"}),
            2..5 => json!({"state": "running"}),
            _ => json!({"state": "pending"}),
        };
        fs::create_dir(stories.join(&id)).unwrap();
        write_sealed(&stories.join(&id).join("story.json"), copy);
        ids.push(id);
    }
    let path = shop.out().join("run.json");
    let mut run = read(&path);
    run["stories"] = json!(ids);
    write_sealed(&path, run);
    shop
}

#[test]
fn ten_thousand_stories_are_no_burden() {
    let shop = many(10_000);
    let page = report(&shop);
    let root = page.parent().unwrap();
    let parts = ["index.html", "assets", "data"].map(|name| root.join(name));
    let size = |path: &PathBuf| fs::metadata(path).unwrap().len();
    let files = parts.iter().flat_map(|part| match part.is_dir() {
        true => times(part).into_keys().collect(),
        false => vec![part.clone()],
    });
    let bytes: u64 = files.map(|file| size(&file)).sum();
    println!("the overview of 10,000 stories has {bytes} bytes");
    assert!(bytes < 3_000_000, "{bytes}");
    let Some(mut browser) = Browser::start() else {
        return;
    };
    browser.open(&page);
    browser.until("!document.querySelector('#choose').hidden");
    // The page may be ready before it is drawn.
    let paint = "performance.getEntriesByName('first-contentful-paint')";
    browser.until(&format!("{paint}.length > 0"));
    let paint = browser.eval(&format!("{paint}[0].startTime"));
    println!("first paint of 10,000 stories after {paint} ms");
    assert_eq!(
        browser.eval("document.querySelectorAll('#rows tr').length"),
        50
    );
    let place = "document.querySelector('#leaf-place').textContent";
    assert_eq!(browser.text(place), "page 1 of 200");
    browser.click("#on");
    assert_eq!(browser.text(place), "page 2 of 200");
    assert_eq!(names(&mut browser)[0], "The 50th evening at the harbour");
    browser.click("[value=quarantined] + span");
    assert_eq!(
        browser.text("document.querySelector('#found').textContent"),
        "1,000 stories"
    );
    browser.click("#words");
    browser.write("9991th south");
    assert_eq!(names(&mut browser), ["The 9991th evening at the harbour"]);
    browser.was_content();
}

/// Names of everything that has this role.
fn of_role(nodes: &[Value], role: &str) -> Vec<String> {
    let with_role = nodes.iter().filter(|node| node["role"]["value"] == role);
    let name = |node: &Value| {
        node["name"]["value"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    with_role.map(name).collect()
}

/// What people who do not see the page need of it.
#[track_caller]
fn speaks(nodes: &[Value], landmarks: &[&str]) {
    for landmark in landmarks {
        assert!(
            !of_role(nodes, landmark).is_empty(),
            "there is no {landmark}"
        );
    }
    let named = [
        "button",
        "link",
        "searchbox",
        "radio",
        "image",
        "columnheader",
        "rowheader",
        "heading",
        "region",
        "Video",
    ];
    for role in named {
        let names = of_role(nodes, role);
        let silent = names.iter().filter(|name| name.trim().is_empty()).count();
        assert_eq!(silent, 0, "{role} without a name: {names:?}");
    }
}

/// Texts that are hard to read on what is behind them: fewer than 4.5 to 1, 3 to 1 if large.
const FAINT: &str = r"(() => {
  const numbers = (colour) => {
    const canvas = document.createElement('canvas').getContext('2d');
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b]
    .map((part) => part / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (element) => {
    for (let up = element; up; up = up.parentElement) {
      const colour = numbers(getComputedStyle(up).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const faint = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || !element.checkVisibility() || element.closest('svg, script, .hidden')) continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(numbers(style.color)), light(behind(element))].sort().reverse();
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < (parseFloat(style.fontSize) >= 24 ? 3 : 4.5)) faint.push([node.data.trim(), ratio]);
  }
  return faint;
})()";

#[test]
fn a_report_is_for_everybody() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let shop = made();
    let page = report(&shop);
    let story = shop.out().join("report/stories/tale.html");
    let lost = shop.out().join("report/stories/lost.html");

    browser.open(&page);
    let landmarks = [
        "banner",
        "navigation",
        "main",
        "contentinfo",
        "search",
        "table",
        "status",
    ];
    speaks(&browser.accessible(), &landmarks);
    let headers =
        browser.eval("document.querySelectorAll('thead th[scope=col][aria-sort]').length");
    assert_eq!(headers, 1, "one column says that it is sorted");
    browser.open(&story);
    let nodes = browser.accessible();
    speaks(
        &nodes,
        &["banner", "navigation", "main", "contentinfo", "Video"],
    );
    let drawing = of_role(&nodes, "image");
    let told = drawing
        .iter()
        .any(|name| name.starts_with("4 shots in a row."));
    assert!(told, "the drawing has no words: {drawing:?}");

    for scheme in ["light", "dark"] {
        browser.scheme(scheme);
        for page in [&page, &story, &lost] {
            browser.open(page);
            browser
                .eval("for (const more of document.querySelectorAll('details')) more.open = true");
            let faint = browser.eval(FAINT);
            assert_eq!(faint, json!([]), "{scheme} {}", page.display());
        }
    }
    let paper = browser.text("getComputedStyle(document.body).backgroundColor");
    assert_eq!(paper, "rgb(20, 22, 26)", "dark is dark");
}

/// What each shot of OneStory chose of its history is drawn, with words for those who do not see it.
#[test]
fn a_choice_of_frames_is_for_everybody() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let shop = Workshop::new();
    let line = of_method(&line("tale", &[true; 4]), "onestory");
    let manifest = shop.write("manifest.jsonl", line);
    finish(&mut shop.run(&manifest, &["simulated.videos=false"])).ended_with(0);
    let memory = shop.ask(&["memory", "tale", "--json"]).ended_with(0).json();
    let choice = &memory["shots"][3]["chosen"];
    let [history, chosen] = ["history", "frames"].map(|part| choice[part].as_array().unwrap());
    let frames: u64 = history
        .iter()
        .map(|shot| shot["frames"].as_u64().unwrap())
        .sum();
    let listed = shop
        .ask(&["memory", "tale", "--shot", "01_04"])
        .ended_with(0);
    assert_eq!(
        listed.stdout.matches("01_04 chose 01_0").count(),
        chosen.len()
    );
    report(&shop);
    browser.open(&shop.out().join("report/stories/tale.html"));
    let nodes = browser.accessible();
    speaks(&nodes, &["main"]);
    let drawings = of_role(&nodes, "image");
    let words = format!(
        "{} of {frames} latent frames of 3 earlier shots were seen",
        chosen.len()
    );
    assert!(
        drawings.iter().any(|name| name.starts_with(&words)),
        "{drawings:?}"
    );
    let marks = "[...document.querySelectorAll('#shot-01_04 .history svg title')].map((mark) => mark.textContent)";
    let items =
        "[...document.querySelectorAll('#shot-01_04 .history li')].map((item) => item.textContent)";
    let (marks, items) = (browser.eval(marks), browser.eval(items));
    assert_eq!(
        (marks.as_array().unwrap().len(), &marks),
        (chosen.len(), &items)
    );
    let outside = "[...document.querySelectorAll('.history svg')].filter((svg) => {
      const box = svg.getBBox();
      return box.x < 0 || box.y < 0 || box.x + box.width > svg.width.baseVal.value + 1
        || box.y + box.height > svg.height.baseVal.value + 1;
    }).length";
    assert_eq!(browser.eval(outside), 0, "everything is inside the drawing");
    for scheme in ["light", "dark"] {
        browser.scheme(scheme);
        browser.eval("for (const more of document.querySelectorAll('details')) more.open = true");
        assert_eq!(browser.eval(FAINT), json!([]), "{scheme}");
    }
    browser.was_content();
}

#[test]
fn a_report_needs_no_mouse() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let shop = made();
    let page = report(&shop);
    browser.open(&page);
    let focus = "document.activeElement.textContent.trim() || document.activeElement.id";
    browser.press("Tab");
    assert_eq!(browser.text(focus), "Skip to the stories");
    let seen = "document.activeElement.getBoundingClientRect().top >= 0";
    browser.until(seen);
    browser.press("Enter");
    browser.press("Tab");
    assert_eq!(browser.text(focus), "words");
    browser.write("lost");
    assert_eq!(names(&mut browser), ["A lost one"]);
    // On to the states, one further, and past them to the first header.
    browser.press("Tab");
    browser.press("ArrowRight");
    assert_eq!(
        browser.text("document.querySelector('[name=state]:checked').value"),
        "done"
    );
    assert!(names(&mut browser).is_empty());
    browser.press("Tab");
    assert_eq!(browser.text(focus), "#");
    let outline = browser.text("getComputedStyle(document.activeElement).outlineStyle");
    assert_eq!(outline, "solid", "the focus is seen");
    browser.press("Enter");
    let sorted = "document.querySelector('[data-key=place]').getAttribute('aria-sort')";
    assert_eq!(browser.text(sorted), "descending");
    browser.press("Space");
    assert_eq!(browser.text(sorted), "ascending");
    browser.was_content();
}
