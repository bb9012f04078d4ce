//! `storyloom repair` as a user calls it.

use std::fs;

use crate::harness::{Workshop, call, finish};

const STORIES: [(&str, &[bool]); 2] = [("ad", &[true, false]), ("tale", &[true, true, false])];

/// Shots that cannot be healed are made again at once, with the settings of the run and without its
/// manifest; or by the next start, where that is asked for.
#[test]
fn what_is_damaged_is_as_it_was_again() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&STORIES);
    finish(&mut shop.run(&manifest, &["run.seed=3"])).ended_with(0);
    let wanted = shop.digest();
    let out = shop.out().display().to_string();
    let healthy = call(&["repair", &out]).ended_with(0);
    assert_eq!(
        healthy.stdout,
        "2 stories looked at: 0 things healed, 0 to be made again, 0 left\n"
    );

    let harm = || {
        fs::write(shop.out().join("stories/tale/01_02.mp4"), b"cut").unwrap();
        fs::remove_file(shop.out().join("stories/ad/story.mp4")).unwrap();
        let shelves = fs::read_dir(shop.out().join("blobs")).unwrap();
        let shelf = shelves.map(|shelf| shelf.unwrap().path()).min().unwrap();
        let blobs = fs::read_dir(shelf)
            .unwrap()
            .map(|blob| blob.unwrap().path());
        let blob = blobs
            .filter(|path| {
                path.extension()
                    .is_some_and(|ending| ending == "safetensors")
            })
            .min()
            .unwrap();
        let mut bytes = fs::read(&blob).unwrap();
        bytes[20] ^= 1;
        fs::write(&blob, bytes).unwrap();
    };
    harm();
    call(&["verify", &out]).ended_with(1);
    call(&["repair", &out, "--heal-only"])
        .ended_with(75)
        .saying("start the run again");
    assert!(shop.out().join("stories/ad/story.mp4").is_file());
    assert!(
        shop.out()
            .join("stories/tale/01_02.mp4.damaged-1")
            .is_file()
    );
    finish(&mut shop.run(&manifest, &["run.seed=3"])).ended_with(0);
    assert_eq!(shop.digest(), wanted);

    harm();
    fs::remove_file(&manifest).unwrap();
    let done = call(&["repair", &out, "--json"]);
    done.ended_with(0).saying("stories are made whole again");
    assert_eq!(shop.digest(), wanted);
    call(&["repair", &out, "nobody"])
        .ended_with(65)
        .saying("no story nobody");
}

/// Finished stories are not read again at each start, and it is said so.
#[test]
fn a_start_says_what_it_has_only_measured() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&STORIES);
    finish(&mut shop.run(&manifest, &[])).ended_with(0);
    let keyframes = shop.out().join("stories/tale/keyframes");
    let keyframe = fs::read_dir(&keyframes)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let whole = fs::read(&keyframe).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    fs::write(&keyframe, flipped).unwrap();
    finish(&mut shop.run(&manifest, &[]))
        .ended_with(0)
        .saying("only the sizes of their files were looked at");
    fs::write(&keyframe, b"").unwrap();
    finish(&mut shop.run(&manifest, &[]))
        .ended_with(0)
        .saying("has 0 bytes instead of");
    assert_eq!(fs::read(&keyframe).unwrap(), whole);
    shop.digest();
}
