//! The scripts that set up and build: what they look for, and what they leave alone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Workshop, finish};

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../scripts")
        .join(name)
}

/// Writes a program that is a shell script.
fn program(shop: &Workshop, name: &str, text: &str) -> String {
    let path = shop.write(name, format!("#!/bin/bash\n{text}\n"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A wrapper around the compiler may be there without the headers of its MPI.
#[test]
fn an_mpi_is_what_compiles() {
    let shop = Workshop::new();
    let text = fs::read_to_string(script("setup.sh")).unwrap();
    let function = |name: &str| {
        let (_, rest) = text.split_once(&format!("\n{name}() {{")).unwrap();
        let body = rest.split("\n}").next().unwrap();
        // Some are of one line.
        let body = body.split(" }\n").next().unwrap();
        format!("{name}() {{ {body}\n}}\n")
    };
    let functions = [function("have"), function("compiles_mpi")].concat();
    shop.write(
        "include/mpi.h",
        "static int MPI_Finalize(void) { return 0; }\n",
    );
    let include = shop.path("include").display().to_string();
    let whole = program(
        &shop,
        "mpicc.whole",
        &format!("exec cc -I'{include}' \"$@\""),
    );
    let empty = program(&shop, "mpicc.empty", "exec cc -nostdinc \"$@\"");
    for (compiler, code) in [(whole.as_str(), 0), (&empty, 1), ("mpicc.not-there", 1)] {
        let test = format!("{functions} compiles_mpi '{compiler}'");
        let tried = finish(Command::new("bash").args(["-c", &test]));
        assert_eq!(tried.code, Some(code), "{compiler}: {}", tried.stderr);
    }
}

/// The quickstart builds into the folder where the binary of a farm may lie.
#[test]
fn the_quickstart_keeps_what_is_built_in() {
    for (before, wanted) in [
        (Some("built in"), "--features mpi"),
        (Some("not built in"), ""),
        (None, ""),
    ] {
        let shop = Workshop::new();
        let quickstart = shop.path("scripts/quickstart.sh");
        shop.write("scripts/setup.sh", "");
        fs::copy(script("quickstart.sh"), &quickstart).unwrap();
        let cargo = program(&shop, "bin/cargo", "echo \"$*\" > \"$0.called\"");
        if let Some(before) = before {
            let says =
                format!("[ \"$1\" != --version ] || printf 'storyloom 1\\nMPI: {before}\\n'");
            program(&shop, "target/release/storyloom", &says);
        }
        let path = format!(
            "{}:{}",
            shop.path("bin").display(),
            std::env::var("PATH").unwrap()
        );
        // Without a binary it ends after the build that here makes none.
        finish(Command::new("bash").arg(&quickstart).env("PATH", path));
        let called = fs::read_to_string(format!("{cargo}.called")).unwrap();
        let build = "build --release --locked --bin storyloom";
        assert_eq!(
            called.trim(),
            format!("{build} {wanted}").trim(),
            "{before:?}"
        );
    }
}
