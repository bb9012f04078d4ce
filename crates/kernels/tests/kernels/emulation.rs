//! The kernels on the CPU: their source, translated by a host compiler.
//!
//! Also used by the tests of `storyloom-nn`.
#![allow(clippy::unwrap_used, reason = "only tests use it")]

use std::ffi::{CStr, CString, c_char};
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use libloading::{Library, Symbol};
use storyloom_kernels::{Launch, SOURCE, entries};

/// The kernels, translated by g++. Memory of the program is memory of the device.
pub struct Emulation {
    library: Library,
    backwards: bool,
}

type Emulate =
    unsafe extern "C" fn(*const c_char, u32, u32, u32, *const u64, usize, bool) -> *const c_char;

impl Emulation {
    /// `backwards`: threads take their turns from the last to the first. `None`, with a line on
    /// stderr, where there is no g++.
    pub fn new(backwards: bool) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("kernels.cpp");
        let target = folder.path().join("kernels.so");
        fs::write(&source, translation_unit()).unwrap();
        // A vector at an address that does not allow it is undefined, and traps.
        let compiler = Command::new("g++")
            .args([
                "-std=c++17",
                "-O1",
                "-shared",
                "-fPIC",
                "-fno-strict-aliasing",
            ])
            .args(["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"])
            .arg("-o")
            .args([&target, &source])
            .output();
        let Ok(output) = compiler else {
            eprintln!("skipped: the kernels on the CPU need g++");
            return None;
        };
        let messages = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{messages}");
        // SAFETY: the library has just been made of this crate's sources.
        let library = unsafe { Library::new(target) }.unwrap();
        // The file may go while it is in use.
        Some(Self { library, backwards })
    }

    /// Runs a launch to its end.
    ///
    /// # Safety
    /// Every pointer in `launch` is one to memory of the shape that its field tells, and nothing
    /// else uses that memory, or this library, meanwhile.
    pub unsafe fn run(&self, launch: &Launch) {
        let name = CString::new(launch.entry).unwrap();
        // SAFETY: this is the type of the function in `emulate.hpp`. It reads as many arguments as
        // it is told of; the caller promises what they point to.
        let wrong = unsafe {
            let emulate: Symbol<Emulate> = self.library.get(b"emulate\0").unwrap();
            emulate(
                name.as_ptr(),
                launch.blocks,
                launch.threads,
                launch.shared_bytes,
                launch.arguments.as_ptr(),
                launch.arguments.len(),
                self.backwards,
            )
        };
        if !wrong.is_null() {
            // SAFETY: a text that is part of the library.
            let wrong = unsafe { CStr::from_ptr(wrong) };
            panic!("{}: {}", launch.entry, wrong.to_string_lossy());
        }
    }
}

/// The emulation, the kernels, and their list.
fn translation_unit() -> String {
    let mut text = format!("{}\n{SOURCE}\n", include_str!("../emulate.hpp"));
    text += "extern \"C\" const emulation::Entry ENTRIES[] = {\n";
    for name in entries() {
        let call = format!("emulation::with_arguments<{name}>");
        let count = format!("emulation::parameters<{name}>({name})");
        writeln!(text, "    {{\"{name}\", {call}, {count}}},").unwrap();
    }
    text + "    {nullptr, nullptr, 0},\n};\n"
}
