//! Opening manifests, briefs, folders of scripts and scripts.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use storyloom_pictures::{FileProblem, InputFolder, read_at_most};
use storyloom_planner::names_a_product;
use storyloom_story::{
    Brief, Findings, InputFiles, Layout, LeftOut, Line, Method, Problem, SourceLocation,
    StoryEntry, StoryId, read_lines, read_scripts,
};

use crate::config::options::Inputs;
use crate::exit::{Exit, Failure};
use crate::planner::{Depth, NamedPicture, PictureChecks, Use};
use crate::prompts::{LongPrompt, Meter};

/// The methods that stories can be made by.
pub type Methods = &'static [Method];

/// Largest file of stories and briefs that is read, in bytes.
const LARGEST: u64 = 1 << 30;

/// The same of what is no plain file, and may have no end.
const LARGEST_STREAM: u64 = 64 << 20;

/// Largest story script that is read, in bytes.
const LARGEST_SCRIPT: u64 = 16 << 20;

/// Stories and briefs, and the folder that the paths in them count from.
#[derive(Debug)]
pub struct Input {
    /// What the stories and briefs were read from, as the user named it.
    pub name: String,
    /// The stories and briefs, in their order.
    pub lines: Vec<Line>,
    /// Where relative paths of reference images start, and what they may lead to.
    pub folder: InputFolder,
    /// SHA-256 of the pictures of products, by their paths, where they were opened.
    pub pictures: BTreeMap<String, String>,
    /// Stories whose scripts cannot be read, at a later start of a run.
    pub left_out: Vec<LeftOut>,
    /// Where the stories stand in a manifest; nowhere where the input is none.
    pub locations: BTreeMap<StoryId, SourceLocation>,
    /// What was read otherwise than it was written, or left out.
    pub warnings: Vec<Problem>,
}

impl Input {
    /// Stories and briefs that were read before.
    pub fn of_lines(lines: Vec<Line>, folder: PathBuf) -> Self {
        Self {
            name: folder.display().to_string(),
            lines,
            folder: folder.into(),
            pictures: BTreeMap::new(),
            left_out: Vec::new(),
            locations: BTreeMap::new(),
            warnings: Vec::new(),
        }
    }

    /// Where a story stands, before what is said of it: "stories.jsonl:2: "; empty where no line has it.
    pub fn place(&self, story: &StoryId) -> String {
        let location = self.locations.get(story);
        location.map_or_else(String::new, |at| format!("{}:{}: ", self.name, at.line))
    }

    /// Whether any story has to be planned.
    pub fn has_briefs(&self) -> bool {
        self.briefs().next().is_some()
    }

    /// The stories that have to be planned.
    pub fn briefs(&self) -> impl Iterator<Item = &Brief> {
        self.lines.iter().filter_map(|line| match line {
            Line::Brief(brief) => Some(brief),
            Line::Story(_) => None,
        })
    }

    /// Leaves the first `most` stories.
    pub fn limit(&mut self, most: usize) {
        self.left_out.retain(|story| story.position < most);
        self.lines.truncate(most - self.left_out.len());
    }

    /// The prompts of its scripts that the text encoder does not read to their end.
    pub fn long_prompts(&self, meter: &Meter) -> Vec<LongPrompt> {
        let scripts = self.stories().map(|story| (&story.id, &story.script));
        meter.all_long_prompts(&scripts.collect::<Vec<_>>())
    }

    /// The stories that have a script.
    pub fn stories(&self) -> impl Iterator<Item = &StoryEntry> {
        self.lines.iter().filter_map(|line| match line {
            Line::Story(entry) => Some(entry),
            Line::Brief(_) => None,
        })
    }
}

/// Problems together with the texts they are in, by file name.
#[derive(Debug, Default)]
pub struct Report {
    /// The problems.
    pub problems: Vec<Problem>,
    /// The texts.
    pub sources: BTreeMap<String, String>,
}

/// Reads what `--manifest` names: a file of stories and briefs (JSONL, CSV or TSV), a script
/// (`.json`), or a folder of scripts.
///
/// # Errors
/// The outer error is a path that cannot be read, the inner one has the problems of the texts.
pub fn read(
    path: &Path,
    inputs: &Inputs,
    methods: Methods,
) -> Result<Result<Input, Report>, Failure> {
    read_with(path, inputs.root(), methods, Demand::Everything)
}

/// As [`read`], for the run in `out`, which opens the pictures of a story when it takes it: what can be
/// told of them without opening them must be right. Once the run has begun, a picture or a script that is
/// gone or damaged is the matter of its story; the others go on.
///
/// # Errors
/// As [`read`].
pub fn read_for(
    path: &Path,
    inputs: &Inputs,
    methods: Methods,
    out: &Path,
) -> Result<Result<Input, Report>, Failure> {
    let has_begun = out.join("run.json").is_file();
    let demand = match has_begun {
        true => Demand::GoOn,
        false => Demand::Begin,
    };
    read_with(path, inputs.root(), methods, demand)
}

/// What must be right of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Demand {
    Everything,
    /// Pictures must be there; nobody opens them.
    Begin,
    /// Pictures and scripts may be gone or damaged, but pictures must not lie elsewhere.
    GoOn,
}

impl Demand {
    fn of_pictures(self) -> Depth {
        match self {
            Self::Everything => Depth::Content,
            Self::Begin => Depth::File,
            Self::GoOn => Depth::Path,
        }
    }

    fn may_lack_scripts(self) -> bool {
        self == Self::GoOn
    }
}

fn read_with(
    path: &Path,
    root: Option<PathBuf>,
    methods: Methods,
    demand: Demand,
) -> Result<Result<Input, Report>, Failure> {
    let metadata = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    if metadata.is_dir() {
        let folder = InputFolder::new(path).within(root);
        read_folder(path, &folder, demand)
    } else if is_script(path) {
        let text = read_given(path, LARGEST_SCRIPT);
        // Without it nothing is asked for.
        scripts_of(path, vec![(path.to_owned(), text)], Demand::Everything)
    } else {
        let most = match metadata.is_file() {
            true => LARGEST,
            false => LARGEST_STREAM,
        };
        let folder = InputFolder::new(path.parent().unwrap_or(Path::new("")));
        read_manifest(path, most, folder.within(root), (methods, demand))
    }
}

/// The ending of a name, in small letters.
fn ending(path: &Path) -> String {
    let ending = path.extension().unwrap_or_default();
    ending.to_string_lossy().to_ascii_lowercase()
}

fn is_script(path: &Path) -> bool {
    ending(path) == "json"
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(
        Exit::Input,
        format!("cannot read {}: {error}", path.display()),
    )
}

/// Files that no story is in are left out, and named: what Macs and editors leave behind, whatever
/// has another ending, and folders.
fn read_folder(
    folder: &Path,
    files: &InputFolder,
    demand: Demand,
) -> Result<Result<Input, Report>, Failure> {
    let entries = fs::read_dir(folder).map_err(|error| unreadable(folder, &error))?;
    let (mut scripts, mut others) = (Vec::new(), Vec::new());
    for entry in entries {
        let path = entry.map_err(|error| unreadable(folder, &error))?.path();
        let is_meant = !is_leftover(&path) && is_script(&path) && !path.is_dir();
        let list = if is_meant { &mut scripts } else { &mut others };
        list.push(path);
    }
    scripts.sort();
    others.sort();
    if scripts.is_empty()
        && let Some(failure) = other_files_only(folder, &others)
    {
        return Err(failure);
    }
    let texts = scripts.into_iter().map(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        // One without a name in UTF-8 is refused by its path.
        let text = read_named(files, name.unwrap_or_default());
        (path, text)
    });
    let read = scripts_of(folder, texts.collect(), demand)?;
    Ok(read.map(|mut input| {
        input.warnings.extend(left_out(folder, &others));
        input
    }))
}

/// Whether a name is one that systems and editors give to files of their own.
fn is_leftover(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(['.', '~', '#']) || name.ends_with(['~', '#'])
}

/// A folder without scripts may have the file that is meant in it.
fn other_files_only(folder: &Path, others: &[PathBuf]) -> Option<Failure> {
    const MANIFESTS: [&str; 5] = ["jsonl", "ndjson", "csv", "tsv", "tab"];
    let is_manifest =
        |path: &&PathBuf| !is_leftover(path) && MANIFESTS.contains(&ending(path).as_str());
    let found = others.iter().find(is_manifest)?;
    let message = format!(
        "{} has no story script (.json) in it, but {}; give that file instead of the folder",
        folder.display(),
        found.display()
    );
    Some(Failure::new(Exit::Input, message))
}

fn left_out(folder: &Path, others: &[PathBuf]) -> Option<Problem> {
    const SHOWN: usize = 10;
    let names = others.iter().filter_map(|path| path.file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    let mut names: Vec<String> = names.take(SHOWN).collect();
    if others.len() > SHOWN {
        names.push(format!("{} more", others.len() - SHOWN));
    }
    let what = match others.len() {
        0 => return None,
        1 => "1 entry is no story script and is".to_owned(),
        count => format!("{count} entries are no story scripts and are"),
    };
    Some(Problem {
        file: folder.display().to_string(),
        line: 1,
        column: 1,
        message: format!("{what} left out: {}", names.join(", ")),
        help: "a story script has a name that ends in .json and does not begin with a dot"
            .to_owned(),
        span: (0, 1),
    })
}

fn scripts_of(
    root: &Path,
    scripts: Vec<(PathBuf, Result<String, String>)>,
    demand: Demand,
) -> Result<Result<Input, Report>, Failure> {
    let mut texts = BTreeMap::new();
    for (path, text) in scripts {
        let Some(name) = path.to_str() else {
            let reason = "the name of the file is no UTF-8 text";
            let message = format!("{}: {reason}", path.display());
            return Err(Failure::new(Exit::Input, message));
        };
        texts.insert(name.to_owned(), text);
    }
    let given = texts.iter().map(|(name, text)| {
        let text = text.as_deref().map_err(String::clone);
        (name.as_str(), text)
    });
    let root_name = root.display().to_string();
    let (manifest, findings) = read_scripts(&root_name, given, demand.may_lack_scripts());
    if !findings.problems.is_empty() {
        let sources = texts.into_iter();
        return Ok(Err(Report {
            problems: findings.problems,
            sources: sources
                .filter_map(|(name, text)| Some((name, text.ok()?)))
                .collect(),
        }));
    }
    Ok(Ok(Input {
        name: root_name,
        lines: manifest.stories.into_iter().map(Line::Story).collect(),
        folder: root.into(),
        pictures: BTreeMap::new(),
        left_out: findings.left_out,
        locations: BTreeMap::new(),
        warnings: findings.warnings,
    }))
}

/// Pictures are looked at as deeply as `demand` says, all of them side by side.
fn read_manifest(
    path: &Path,
    most: u64,
    folder: InputFolder,
    (methods, demand): (Methods, Demand),
) -> Result<Result<Input, Report>, Failure> {
    let name = path.display().to_string();
    let text = read_given(path, most)
        .map_err(|reason| Failure::new(Exit::Input, format!("{name}: {reason}")))?;
    let shown = path.parent().unwrap_or(Path::new("")).to_owned();
    let files = Folder {
        pictures: PictureChecks::new(&folder, demand.of_pictures()),
        methods,
        demand,
        folder,
        shown,
        scripts: RefCell::default(),
    };
    let layout = Layout::of_ending(&ending(path));
    let (lines, findings) = files.read(&name, &text, layout);
    let Findings {
        problems,
        warnings,
        left_out,
        locations,
    } = findings;
    if problems.is_empty() {
        return Ok(Ok(Input {
            name,
            lines,
            folder: files.folder,
            pictures: files.pictures.digests(),
            left_out,
            locations,
            warnings,
        }));
    }
    let folder = files.shown;
    let mut sources = files.scripts.into_inner();
    sources.insert(name, text);
    let problems = problems.into_iter().map(|problem| {
        // Problems of a script carry its path as the manifest has it.
        let file = folder.join(&problem.file).display().to_string();
        let renamed = sources.contains_key(&file);
        Problem {
            file: if renamed { file } else { problem.file },
            ..problem
        }
    });
    let problems = problems.collect();
    Ok(Err(Report { problems, sources }))
}

/// Opens what a manifest names, and remembers the scripts for showing their problems.
struct Folder {
    /// What stories can be made by.
    methods: Methods,
    demand: Demand,
    folder: InputFolder,
    /// The folder as it is shown.
    shown: PathBuf,
    pictures: PictureChecks,
    scripts: RefCell<BTreeMap<String, String>>,
}

impl Folder {
    /// Reads a manifest. Its pictures are known when it is read, and then looked at side by side; only
    /// where one cannot be used it is read again, for the places of those.
    fn read(&self, name: &str, text: &str, layout: Layout) -> (Vec<Line>, Findings) {
        let noting = Noting {
            folder: self,
            pictures: RefCell::default(),
        };
        let read = read_lines(name, text, layout, &noting);
        let pictures = noting.pictures.into_inner();
        match self.pictures.are_usable(&pictures) {
            true => read,
            false => read_lines(name, text, layout, self),
        }
    }
}

/// A folder whose pictures are taken as given, and noted.
struct Noting<'a> {
    folder: &'a Folder,
    pictures: RefCell<Vec<NamedPicture>>,
}

impl Noting<'_> {
    fn note(&self, of: Use, path: &str, sha256: Option<&str>) {
        let picture = NamedPicture {
            of,
            path: path.to_owned(),
            sha256: sha256.map(str::to_owned),
        };
        self.pictures.borrow_mut().push(picture);
    }
}

impl InputFiles for Noting<'_> {
    fn script(&self, path: &str) -> Result<String, String> {
        self.folder.script(path)
    }

    fn may_lack_scripts(&self) -> bool {
        self.folder.may_lack_scripts()
    }

    fn method(&self, method: Method) -> Result<(), String> {
        self.folder.method(method)
    }

    fn reference_image(&self, path: &str) -> Result<(), String> {
        self.note(Use::Reference, path, None);
        Ok(())
    }

    fn first_shot(&self, path: &str) -> Result<(), String> {
        self.note(Use::FirstShot, path, None);
        Ok(())
    }

    fn product_image(&self, path: &str, sha256: Option<&str>) -> Result<(), String> {
        self.note(Use::Product, path, sha256);
        Ok(())
    }

    fn product_title(&self, title: &str) -> Result<(), String> {
        self.folder.product_title(title)
    }
}

impl InputFiles for Folder {
    fn script(&self, path: &str) -> Result<String, String> {
        let text = read_named(&self.folder, path)?;
        let name = self.shown.join(path).display().to_string();
        self.scripts.borrow_mut().insert(name, text.clone());
        Ok(text)
    }

    fn may_lack_scripts(&self) -> bool {
        self.demand.may_lack_scripts()
    }

    fn method(&self, method: Method) -> Result<(), String> {
        match self.methods.contains(&method) {
            true => Ok(()),
            false => Err("this version has no models for it".to_owned()),
        }
    }

    fn reference_image(&self, path: &str) -> Result<(), String> {
        self.pictures.check(Use::Reference, path, None)
    }

    fn first_shot(&self, path: &str) -> Result<(), String> {
        self.pictures.check(Use::FirstShot, path, None)
    }

    fn product_image(&self, path: &str, sha256: Option<&str>) -> Result<(), String> {
        self.pictures.check(Use::Product, path, sha256)
    }

    fn product_title(&self, title: &str) -> Result<(), String> {
        match names_a_product(title) {
            true => Ok(()),
            false => Err("has no word in it that names a product".to_owned()),
        }
    }
}

/// A script that an input names.
fn read_named(folder: &InputFolder, path: &str) -> Result<String, String> {
    match folder.read(path, LARGEST_SCRIPT) {
        Ok(bytes) => text_of(bytes),
        // A script that is empty is told by its reader.
        Err(FileProblem::Empty) => Ok(String::new()),
        Err(problem) => Err(problem.to_string()),
    }
}

/// A file that the user names.
fn read_given(path: &Path, most: u64) -> Result<String, String> {
    match read_at_most(path, most) {
        Ok(bytes) => text_of(bytes),
        Err(problem @ FileProblem::Bytes { .. }) => Err(format!("{problem}; split it")),
        Err(problem) => Err(problem.to_string()),
    }
}

fn text_of(bytes: Vec<u8>) -> Result<String, String> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err("the file is UTF-16 text; save it as UTF-8".to_owned());
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        format!("the file is no UTF-8 text (byte {at}); save it as UTF-8")
    })
}
