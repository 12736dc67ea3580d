//! Tests of the form: reports are what the schema says, and the schema in `docs/` is the one of this program.

use std::sync::OnceLock;

use jsonschema::Validator;
use serde_json::{Value, json};

use super::{Report, sample, schema};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/loadtest-report.schema.json");

fn complaints(report: &Value) -> Vec<String> {
    static VALIDATOR: OnceLock<Validator> = OnceLock::new();
    let validator = VALIDATOR.get_or_init(|| jsonschema::draft202012::new(&schema()).unwrap());
    validator.iter_errors(report).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

#[test]
fn a_report_is_what_the_schema_says_and_reads_back_the_same() {
    let report = sample::report();
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(complaints(&serde_json::from_str(&text).unwrap()), Vec::<String>::new());
    assert_eq!(Report::read(&text).unwrap(), report);
}

#[test]
fn the_schema_refuses_what_is_missing_unknown_or_of_another_kind() {
    let mut small = sample::report();
    small.phases.truncate(2);
    small.phases.iter_mut().for_each(|phase| phase.timeline.truncate(2));
    let good = serde_json::to_value(small).unwrap();
    let parts = [
        "",
        "/machine",
        "/plan",
        "/plan/phases/0",
        "/verdict",
        "/phases/1",
        "/phases/1/messages",
        "/phases/1/cap",
        "/phases/1/latency",
        "/phases/1/timeline/0",
        "/phases/1/generator",
        "/phases/1/nodes/0",
    ];
    for part in parts {
        let mut more = good.clone();
        let object = more.pointer_mut(part).and_then(Value::as_object_mut).unwrap();
        object.insert("surprise".to_owned(), json!(1));
        assert!(!complaints(&more).is_empty(), "{part}: a field that nobody knows");
        assert!(Report::read(&more.to_string()).is_err(), "{part}: a field that nobody knows is read");

        let keys: Vec<_> = good.pointer(part).and_then(Value::as_object).unwrap().keys().cloned().collect();
        for key in keys {
            let mut other = good.clone();
            other.pointer_mut(part).unwrap()[&key] = json!({ "neither": "this nor that" });
            assert!(!complaints(&other).is_empty() || key == "errors", "{part}/{key}: of another kind");
            // What a plan leaves out has a default.
            if part != "/plan/phases/0" {
                let mut less = good.clone();
                less.pointer_mut(part).and_then(Value::as_object_mut).unwrap().remove(&key);
                assert!(!complaints(&less).is_empty(), "{part}/{key}: missing");
                assert!(Report::read(&less.to_string()).is_err(), "{part}/{key}: missing, and read");
            }
        }
    }
    let mut negative = good.clone();
    negative["phases"][1]["done"] = json!(-1);
    assert!(!complaints(&negative).is_empty());
    negative["phases"][1]["done"] = json!(1);
    negative["phases"][1]["errors"]["timeout"] = json!("many");
    assert!(!complaints(&negative).is_empty());
}

#[test]
fn the_schema_in_the_documents_is_this_one() {
    let text = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    if std::env::var_os("UPDATE_SCHEMA").is_some_and(|value| value == "1") {
        std::fs::write(PATH, &text).unwrap();
    }
    let written = std::fs::read_to_string(PATH).unwrap_or_default();
    assert!(
        written == text,
        "{PATH} is not the schema of this program: UPDATE_SCHEMA=1 cargo test -p loadtest --lib report::form"
    );
}

#[test]
fn another_form_is_refused() {
    let mut report = serde_json::to_value(sample::report()).unwrap();
    report["form"] = json!(2);
    assert!(Report::read(&report.to_string()).unwrap_err().to_string().contains("form 2"));
    assert!(Report::read("[]").is_err());
}
