//! How much memory the history of a story takes while a shot goes through it.

#![expect(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use storyloom_memory::arrays::{LATENTS, encode_array};
use storyloom_memory::index::open_index;
use storyloom_memory::{
    BlobRef, BlobStore, Disk, IndexKind, MemoryBank, MemoryItem, Remembered, Storage,
};
use storyloom_story::{HostTensor, MemoryFrame, ShotId, StoryId};

/// The system's allocator, which counts what is held.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it is; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::SeqCst) + layout.size();
        MOST.fetch_max(held, Ordering::SeqCst);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::SeqCst);
        // SAFETY: the pointer came from `alloc` above, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `work` returns, and the most bytes that were held during it beyond those before.
fn most_held<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.load(Ordering::SeqCst);
    MOST.store(before, Ordering::SeqCst);
    let result = work();
    (result, MOST.load(Ordering::SeqCst) - before)
}

/// Values of the latents of a shot.
const VALUES: usize = 1 << 17;

fn item(blobs: &BlobStore, shot: u32) -> Remembered {
    let latents = HostTensor::new(vec![VALUES], vec![shot as f32; VALUES]).unwrap();
    let blob: BlobRef = blobs.put(&encode_array(&latents).unwrap()).unwrap();
    Remembered {
        shot: Some(ShotId { scene: 1, shot }),
        item: MemoryItem {
            number: 0,
            frame: None,
            quality: None,
            picture: None,
            arrays: BTreeMap::from([(LATENTS.to_owned(), blob)]),
        },
    }
}

/// The sums of all latents, read one after the other.
fn read_all(bank: &MemoryBank, history: &[Remembered]) -> f32 {
    let story = StoryId::new("a").unwrap();
    let frames: Vec<MemoryFrame> = history
        .iter()
        .map(|item| bank.load(&story, item).unwrap())
        .collect();
    let first = |frame: &MemoryFrame| frame.arrays[LATENTS].read().unwrap().data()[0];
    frames.iter().map(first).sum()
}

/// The whole history is proven and read, and takes no more than one shot of it: its file and its values.
#[test]
fn a_long_history_takes_the_memory_of_one_shot() {
    let folder = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(Disk);
    let blobs = BlobStore::new(folder.path().join("blobs"), storage.clone());
    let history: Vec<Remembered> = (1..=40).map(|shot| item(&blobs, shot)).collect();
    let index = open_index(IndexKind::Redb, &folder.path().join("bank")).unwrap();
    let stories = folder.path().join("stories");
    let bank = MemoryBank::new(stories, storage, blobs, index.index, "run");

    let (_, one) = most_held(|| read_all(&bank, &history[..1]));
    let (sum, all) = most_held(|| read_all(&bank, &history));
    assert_eq!(sum, (1..=40).sum::<u32>() as f32);
    assert!(one >= 4 * VALUES, "{one} bytes hold no shot");
    assert!(
        all < one + VALUES,
        "one shot takes {one} bytes, forty take {all}"
    );
}
