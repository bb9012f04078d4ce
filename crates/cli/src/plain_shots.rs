//! Shots that go on from the one before in their script, and that their method makes as all others.

use std::path::Path;

use storyloom_story::{Method, Problem, SourceLocation};

use crate::input::Input;

/// A warning for each story that has such shots; `own` is the method of stories that do not say theirs.
pub fn plain_shots(input: &Input, manifest: &Path, own: Method) -> Vec<Problem> {
    let mut found = Vec::new();
    for story in input.stories() {
        let method = story.method.unwrap_or(own);
        if method.profile().continues {
            continue;
        }
        let shots = story.script.shots().filter(|(_, shot)| !shot.cut).count();
        let shots = match shots {
            0 => continue,
            1 => "1 shot of the story".to_owned(),
            shots => format!("{shots} shots of the story"),
        };
        let location = input.locations.get(&story.id);
        let SourceLocation { line, span } = location.copied().unwrap_or(SourceLocation {
            line: 1,
            span: (0, 1),
        });
        found.push(Problem {
            file: manifest.display().to_string(),
            line,
            column: 1,
            message: format!(
                "{shots} {} should go on from the shot before (\"cut\" is false), and the method {method} has no \
                 such shots: each is a plain next shot",
                story.id
            ),
            help: "write \"cut\": true, and say in the caption what is to be seen again".to_owned(),
            span,
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    use crate::config::options::Inputs;
    use crate::input;

    #[test]
    fn each_story_is_told_once_and_only_where_its_method_does_not_continue() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.jsonl");
        let line = |id: &str, keys: &str, cuts: &str| {
            format!(
                "{{\"id\":\"{id}\",{keys}\"script\":{{\"scenes\":[{{\"scene_num\":1,\
                 \"video_prompts\":[\"A\",\"B\",\"C\"],\"cut\":[{cuts}]}}]}}}}\n"
            )
        };
        let text = [
            line("a", "", "true,true,true"),
            line("b", "", "true,false,false"),
            line("c", "\"method\":\"storymem\",", "true,false,true"),
            line("d", "\"method\":\"onestory\",", "true,true,false"),
        ];
        fs::write(&path, text.concat()).unwrap();
        let read = input::read(&path, &Inputs::default(), &Method::KNOWN).unwrap();
        let input = read.map_err(|report| report.problems).unwrap();
        let told = |own: Method| -> Vec<(usize, String)> {
            let found = plain_shots(&input, &path, own).into_iter();
            found
                .map(|problem| (problem.line, problem.message))
                .collect()
        };
        let storymem = told(Method::StoryMem);
        assert_eq!(storymem.len(), 1);
        assert!(
            storymem[0].1.starts_with("1 shot of the story d should"),
            "{storymem:?}"
        );
        let onestory = told(Method::OneStory);
        let lines: Vec<usize> = onestory.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [2, 4]);
        assert!(
            onestory[0].1.starts_with("2 shots of the story b should"),
            "{onestory:?}"
        );
    }
}
