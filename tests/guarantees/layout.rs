//! The code and its documents agree: imports run downwards, settings and events are documented as they are.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Which module may use which, by the first name after `crate::`.
const MAY_USE: &[(&str, &[&str])] = &[
    ("main", &["config", "health", "node", "telemetry"]),
    (
        "node",
        &[
            "adapter",
            "admission",
            "cluster",
            "config",
            "exchange",
            "http",
            "ice",
            "id",
            "lifecycle",
            "limits",
            "metrics",
            "reload",
            "rooms",
            "signaling",
            "telemetry",
            "transport",
        ],
    ),
    (
        "http",
        &[
            "adapter",
            "admission",
            "config",
            "ice",
            "id",
            "lifecycle",
            "limits",
            "metrics",
            "protocol",
            "reload",
            "signaling",
            "telemetry",
            "transport",
        ],
    ),
    (
        "signaling",
        &[
            "adapter",
            "admission",
            "config",
            "exchange",
            "ice",
            "id",
            "lifecycle",
            "limits",
            "metrics",
            "protocol",
            "rooms",
            "telemetry",
            "transport",
        ],
    ),
    ("adapter", &["cluster", "id"]),
    ("cluster", &["config", "exchange", "id", "lifecycle", "metrics", "protocol", "rooms", "telemetry"]),
    ("admission", &["config", "ice", "id", "lifecycle", "metrics", "protocol"]),
    ("exchange", &["id", "protocol", "rooms", "telemetry"]),
    ("transport", &["config", "id", "limits", "metrics"]),
    ("limits", &["config", "id", "metrics", "protocol"]),
    ("rooms", &["id"]),
    ("protocol", &["ice", "id", "rooms"]),
    ("telemetry", &["config", "id", "metrics"]),
    ("metrics", &["protocol"]),
    ("reload", &["config", "metrics"]),
    ("config", &[]),
    ("health", &[]),
    ("ice", &["config"]),
    ("id", &[]),
    ("lifecycle", &[]),
    ("lib", &[]),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The modules that a source text names after `crate::` (or `duet::`, in the binary), outside its tests.
fn used(text: &str) -> BTreeSet<String> {
    let text = text.split("\n#[cfg(test)]").next().unwrap_or_default();
    let mut used = BTreeSet::new();
    for prefix in ["crate::", "duet::"] {
        for (at, _) in text.match_indices(prefix) {
            let rest = &text[at + prefix.len()..];
            let names: Vec<&str> = match rest.strip_prefix('{') {
                Some(list) => {
                    let (mut depth, mut start, mut names) = (0, 0, Vec::new());
                    for (at, byte) in list.bytes().enumerate() {
                        match byte {
                            b'{' => depth += 1,
                            b'}' if depth == 0 => {
                                names.push(&list[start..at]);
                                break;
                            }
                            b'}' => depth -= 1,
                            b',' if depth == 0 => {
                                names.push(&list[start..at]);
                                start = at + 1;
                            }
                            _ => {}
                        }
                    }
                    names
                }
                None => vec![rest],
            };
            for name in names {
                let name: String = name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if !name.is_empty() {
                    used.insert(name);
                }
            }
        }
    }
    used
}

#[test]
fn imports_run_downwards_only() {
    let allowed: BTreeMap<_, _> = MAY_USE.iter().copied().collect();
    let source = root().join("src");
    let mut files = Vec::new();
    sources(&source, &mut files);
    assert!(files.len() > 20, "{} files", files.len());
    for file in files {
        let inside = file.strip_prefix(&source).expect("inside");
        let module = inside.iter().next().expect("a name").to_string_lossy().trim_end_matches(".rs").to_owned();
        let may = allowed.get(module.as_str()).unwrap_or_else(|| panic!("{module}: not in the table"));
        for name in used(&fs::read_to_string(&file).expect("a source")) {
            assert!(
                name == module || may.contains(&name.as_str()),
                "{} uses {name}, which it must not",
                inside.display()
            );
        }
    }
}

#[test]
fn the_scanner_of_imports_sees_them() {
    let text =
        "use crate::{\n    a::{b, c},\n    d,\n};\nfn f() { crate::e::f() }\n#[cfg(test)]\nmod tests { use crate::g; }";
    assert_eq!(used(text), ["a", "d", "e"].map(str::to_owned).into());
}

#[test]
fn the_readme_names_every_setting_with_its_default() {
    let readme = read("README.md");
    let defaults: toml_lite::Table = toml_lite::parse(&read("config/default.toml"));
    assert!(defaults.len() > 15);
    for ((section, key), value) in defaults {
        let name = format!("`DUET_{}__{}`", section.to_uppercase(), key.to_uppercase());
        let line = readme
            .lines()
            .find(|line| line.starts_with('|') && line.contains(&name))
            .unwrap_or_else(|| panic!("README.md has no row for {name}"));
        let shown = if value.is_empty() { "empty".to_owned() } else { format!("`{value}`") };
        assert!(line.contains(&shown), "{name}: the default is {shown}, README.md says: {line}");
    }
}

#[test]
fn the_readme_names_every_event_code_and_reason() {
    let readme = read("README.md");
    let names = duet::protocol::Request::ALL.map(duet::protocol::Request::name);
    let codes = duet::protocol::Code::ALL.map(duet::protocol::Code::name);
    let reasons = duet::protocol::ByeReason::ALL.map(duet::protocol::ByeReason::name);
    for name in names.iter().chain(&codes).chain(&reasons) {
        assert!(readme.contains(&format!("`{name}`")), "README.md does not name `{name}`");
    }
}

/// Every file below `directory` with that extension, but for what is installed or built.
fn files(directory: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            if !matches!(path.file_name().and_then(|name| name.to_str()), Some("node_modules" | "target")) {
                files(&path, extension, found);
            }
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
}

/// All of them in one text.
fn texts(directories: &[&str], extension: &str) -> String {
    let mut found = Vec::new();
    for directory in directories {
        files(&root().join(directory), extension, &mut found);
    }
    assert!(!found.is_empty());
    found.iter().map(|file| fs::read_to_string(file).expect("a text")).collect()
}

/// What stands between two `mark`s in `text`.
fn marked(text: &str, mark: char) -> Vec<&str> {
    text.split(mark).skip(1).step_by(2).collect()
}

#[test]
fn every_test_that_answers_a_threat_exists() {
    let (rust, javascript) = (texts(&["src", "tests"], "rs"), texts(&["tests"], "mjs"));
    let document = read("docs/THREATS.md");
    // The tables whose last column names tests.
    let tables = document.split("\n## ").filter(|section| section.contains(" shown by |"));
    let mut named = 0;
    for row in
        tables.flat_map(str::lines).filter(|line| line.starts_with("| ")).filter(|line| !line.ends_with("shown by |"))
    {
        let shown_by = row.trim_end_matches(" |").rsplit(" | ").next().expect("a column");
        let (tests, sentences) = (marked(shown_by, '`'), marked(shown_by, '"'));
        assert!(!tests.is_empty() || !sentences.is_empty(), "nothing shows this: {row}");
        named += tests.len() + sentences.len();
        for test in tests {
            assert!(rust.contains(&format!("fn {test}(")), "there is no test {test}");
        }
        for sentence in sentences {
            assert!(javascript.contains(&format!("test(\"{sentence}\"")), "there is no test {sentence:?}");
        }
    }
    assert!(named > 60, "{named}");
}

#[test]
fn fuzz_targets_are_built_of_what_the_server_is_built_of() {
    let packages = |lock: &str| -> BTreeSet<String> {
        lock.split("[[package]]\n").skip(1).map(|entry| entry.lines().take(2).collect::<Vec<_>>().join(" ")).collect()
    };
    let name = |package: &String| package.split('"').nth(1).expect("a name").to_owned();
    let (ours, theirs) = (packages(&read("Cargo.lock")), packages(&read("tests/fuzz/Cargo.lock")));
    let known: BTreeSet<_> = ours.iter().map(name).collect();
    for package in theirs.difference(&ours) {
        assert!(!known.contains(&name(package)), "tests/fuzz/Cargo.lock has another version: {package}");
    }
    // And it has every package that the server takes in.
    let manifest = read("Cargo.toml");
    let dependencies = manifest.split("[dependencies]\n").nth(1).and_then(|rest| rest.split("\n\n").next());
    let known: BTreeSet<_> = theirs.iter().map(name).collect();
    for line in dependencies.expect("dependencies").lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(' ').next().expect("a name");
        assert!(known.contains(name), "tests/fuzz/Cargo.lock does not have {name}: cargo update --workspace there");
    }
    // Every target is built, and has something to begin with.
    let manifest = read("tests/fuzz/Cargo.toml");
    for entry in fs::read_dir(root().join("tests/fuzz/targets")).expect("a directory") {
        let path = entry.expect("an entry").path();
        let target = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
        assert!(manifest.contains(&format!("path = \"targets/{target}.rs\"")), "{target} is not built");
        let corpus = root().join("tests/fuzz/corpus").join(target);
        assert!(fs::read_dir(&corpus).is_ok_and(|files| files.count() > 1), "{} is empty", corpus.display());
    }
}

/// As much of TOML as `config/default.toml` uses: sections, keys, texts, numbers, truth values.
mod toml_lite {
    use std::collections::BTreeMap;

    pub type Table = BTreeMap<(String, String), String>;

    pub fn parse(text: &str) -> Table {
        let mut section = String::new();
        let mut table = Table::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(name) = line.strip_prefix('[') {
                name.trim_end_matches(']').clone_into(&mut section);
            } else if let Some((key, value)) = line.split_once(" = ") {
                let value = value.trim_matches('"').replace('_', if value.starts_with('"') { "_" } else { "" });
                table.insert((section.clone(), key.to_owned()), value);
            }
        }
        table
    }
}
