//! `moewe doctor` from outside: what it tells, that both forms tell the same, what it leaves alone, and what it keeps to
//! itself. How speeds are computed is tested beside the formula.

#[path = "support/command.rs"]
mod command;
mod support;

use command::{moewe, names, stderr, stdout};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use support::Tiny;

const HOME_MODELS: &str = if cfg!(target_os = "macos") {
    "Library/Application Support/moewe/models"
} else {
    ".local/share/moewe/models"
};

/// The command with a folder of models.
fn doctor(home: &Path, models: &Path) -> Command {
    let mut command = moewe(home);
    command.arg("doctor").env("MOEWE_MODELS", models);
    for variable in ["HF_TOKEN", "HF_HOME", "HF_HUB_CACHE", "OLLAMA_MODELS", "MOEWE_API_KEY"] {
        command.env_remove(variable);
    }
    command
}

fn good(output: Output) -> String {
    assert!(output.status.success(), "{}", stderr(&output));
    stdout(&output)
}

fn json(command: &mut Command) -> Value {
    serde_json::from_str(&good(command.arg("--json").output().unwrap())).unwrap()
}

/// A home with a folder that has the tiny model.
fn home() -> (tempfile::TempDir, std::path::PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let models = home.path().join("models");
    fs::create_dir(&models).unwrap();
    Tiny::default().write(&models.join("tiny.gguf"));
    (home, models)
}

/// All keys of an object and of what is in it.
fn keys(value: &Value, all: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| {
            all.push(key.clone());
            keys(value, all);
        }),
        Value::Array(values) => values.iter().for_each(|value| keys(value, all)),
        _ => {}
    }
}

#[test]
fn figures_are_those_of_a_machine() {
    let (home, models) = home();
    let report = json(&mut doctor(home.path(), &models));
    let positive = |path: &str| {
        let value = report.pointer(path).unwrap_or(&Value::Null);
        let number = value.as_f64().unwrap_or_else(|| panic!("{path} is {value}"));
        assert!(number > 0.0, "{path} is {number}");
        number
    };
    let threads = positive("/cpu/threads");
    assert!(threads as usize <= std::thread::available_parallelism().unwrap().get(), "{threads}");
    assert_eq!(report["bandwidth"]["threads"], report["cpu"]["threads"]);
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    let sets = &report["instruction_sets"];
    assert!(sets["available"].as_array().unwrap().contains(&sets["chosen"]), "{sets}");
    if cfg!(target_os = "linux") {
        let (total, free) = (positive("/memory/total_bytes"), positive("/memory/available_bytes"));
        let default = positive("/memory/default_limit_bytes");
        assert!(free <= total && default <= total && default >= free * 0.8, "{}", report["memory"]);
        assert!(positive("/cpu/logical_cores") >= positive("/cpu/physical_cores"));
        assert!(positive("/cpu/allowed_cores") >= threads);
        assert!(report["disk"]["file_system"].is_string() && positive("/disk/free_bytes") > 0.0);
    }
    // Slow as unoptimized kernels are, a machine reads more than a megabyte and less than 100 TB a second.
    if report["bandwidth"]["why_not"].is_null() {
        for path in ["/bandwidth/read_bytes_per_second", "/bandwidth/kernel_bytes_per_second"] {
            assert!((1e6..1e14).contains(&positive(path)), "{}", report["bandwidth"]);
        }
        let tiny = &report["own_models"][0]["tokens_per_second"];
        assert!(tiny["least"].as_f64() <= tiny["most"].as_f64(), "{tiny}");
        assert!(tiny["least"].as_f64().is_some_and(|speed| speed > 0.0), "{tiny}");
    }
    let known = report["known_models"].as_array().unwrap();
    assert!(known.len() > 10);
    for model in known {
        let number = |key: &str| model[key].as_u64().unwrap_or_else(|| panic!("{key} of {model}"));
        assert!(
            number("active_parameters") < number("parameters") && number("bytes") < number("memory_bytes")
        );
        assert!(number("bytes_per_token") < number("bytes"), "{model}");
        assert!(model["source"].as_str().unwrap().starts_with("https://"), "{model}");
    }
}

#[test]
fn all_fields_are_documented() {
    let (home, models) = home();
    fs::write(models.join("broken.gguf"), "GGUF").unwrap();
    let report = json(doctor(home.path(), &models).env("NO_COLOR", "1"));
    let document = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/doctor.md")).unwrap();
    let mut all = vec![];
    keys(&report, &mut all);
    all.sort();
    all.dedup();
    assert!(all.len() > 50, "{all:?}");
    let unknown: Vec<_> = all.iter().filter(|key| !document.contains(&format!("`{key}`"))).collect();
    assert!(unknown.is_empty(), "docs/doctor.md does not tell {unknown:?}");
}

#[test]
fn text_tells_the_same_in_eighty_columns() {
    let (home, models) = home();
    fs::write(models.join("broken.gguf"), "GGUF").unwrap();
    let report = json(&mut doctor(home.path(), &models));
    let text = good(doctor(home.path(), &models).output().unwrap());
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut parts: Vec<String> = vec![];
    for path in [
        "/version",
        "/build/target",
        "/build/profile",
        "/system/name",
        "/system/kernel",
        "/cpu/name",
        "/instruction_sets/chosen",
        "/instruction_sets/why",
        "/bandwidth/format",
        "/disk/file_system",
        "/disk/device",
        "/gpu/why_not",
        "/gpu/cards/0/name",
        "/own_models/0/name",
        "/own_models/1/name",
    ] {
        parts.extend(report.pointer(path).and_then(Value::as_str).map(str::to_owned));
    }
    let texts = |list: &str, key: &str| -> Vec<String> {
        report[list].as_array().unwrap().iter().map(|one| one[key].as_str().unwrap().to_owned()).collect()
    };
    parts.extend(texts("known_models", "name"));
    parts.extend(texts("advice", "remedy"));
    parts.extend(texts("folders", "what"));
    parts.extend(texts("environment", "name"));
    parts.push(format!("{} threads", report["cpu"]["threads"]).replace("1 threads", "1 thread"));
    assert!(parts.len() > 40, "{parts:?}");
    for part in parts {
        let part = part.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(&part), "{part} is not in {text}");
    }
    assert_eq!(report["own_models"].as_array().map(Vec::len), Some(2));
    assert!(report["own_models"][0]["why_not"].is_string() && report["own_models"][1]["fit"] == "memory");
    // A word alone may be longer: paths and addresses.
    let long = |line: &&str| line.chars().count() > 80 && line.trim_start().contains(' ');
    let long: Vec<_> = text.lines().filter(long).filter(|line| !line.contains('/')).collect();
    assert!(long.is_empty(), "{long:?}");
}

#[test]
fn a_new_home_stays_as_it_is() {
    let home = tempfile::tempdir().unwrap();
    let mut command = moewe(home.path());
    let report = json(command.arg("doctor"));
    assert!(names(home.path()).is_empty());
    assert!(report["own_models"].as_array().unwrap().is_empty() && report["disk"]["rates"].is_null());
    if !cfg!(windows) {
        let folder = home.path().join(HOME_MODELS).display().to_string();
        assert_eq!(
            (&report["folders"][0]["path"], &report["folders"][0]["exists"]),
            (&folder.into(), &false.into())
        );
        assert!(report["disk"]["why_not"].as_str().unwrap().contains("there is no folder"), "{report}");
    }
    let remedies = report["advice"].as_array().unwrap().iter().map(|advice| advice["remedy"].to_string());
    assert!(remedies.into_iter().any(|remedy| remedy.contains("moewe pull")));
}

#[test]
fn secrets_are_kept() {
    let (home, models) = home();
    let mut command = doctor(home.path(), &models);
    let secret = "hf_a_token_that_nobody_sees";
    command.env("HF_TOKEN", secret).env("MOEWE_API_KEY", secret);
    command.env("HTTPS_PROXY", format!("http://me:{secret}@127.0.0.1:9"));
    let text = good(command.output().unwrap());
    let report = json(&mut command);
    assert!(!text.contains(secret) && !report.to_string().contains(secret), "{text}");
    for name in ["HF_TOKEN", "MOEWE_API_KEY", "HTTPS_PROXY"] {
        assert!(text.contains(&format!("{name}=set")), "{text}");
        let told = report["environment"].as_array().unwrap().iter().find(|variable| variable["name"] == name);
        assert_eq!(told.map(|variable| &variable["value"]), Some(&"set".into()));
    }
}

#[cfg(unix)]
#[test]
fn a_folder_that_cannot_be_written_is_left_alone() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    let models = home.path().join("models");
    fs::create_dir(&models).unwrap();
    fs::set_permissions(&models, fs::Permissions::from_mode(0o555)).unwrap();
    let may_write = fs::write(models.join("x"), "").is_ok(); // as root may
    let _ = fs::remove_file(models.join("x"));
    let disk = json(&mut doctor(home.path(), &models))["disk"].clone();
    assert!(names(&models).is_empty());
    if may_write {
        assert_eq!(disk["rates"]["is_temporary"], true, "{disk}");
    } else {
        assert!(disk["why_not"].as_str().unwrap().contains("cannot write a temporary file"), "{disk}");
    }
}

/// Whatever ends it while the temporary file is there takes the file along.
#[cfg(unix)]
#[test]
fn nothing_stays_of_a_probe_that_is_interrupted() {
    for (signal, status) in [("INT", 130), ("TERM", 143)] {
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let models = home.path().join("models");
        fs::create_dir(&models).unwrap();
        let mut child = doctor(home.path(), &models).arg("--json").spawn().unwrap();
        while names(&models).is_empty() {
            assert!(child.try_wait().unwrap().is_none(), "ended without a temporary file");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        let killed =
            Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        assert_eq!(child.wait().unwrap().code(), Some(status), "{signal}");
        assert!(names(&models).is_empty(), "{signal}: {:?}", names(&models));
    }
}

/// Limits that a shell sets are told, with what to do.
#[cfg(target_os = "linux")]
#[test]
fn limits_of_the_shell_are_told() {
    let (home, models) = home();
    let program = doctor(home.path(), &models).get_program().to_owned();
    let script = format!("ulimit -v 8000000; exec '{}' doctor --json", program.display());
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &script])
        .current_dir(home.path())
        .env("HOME", home.path())
        .env("MOEWE_MODELS", &models);
    let report: Value = serde_json::from_str(&good(shell.output().unwrap())).unwrap();
    assert_eq!(report["memory"]["address_limit_bytes"], 8_000_000u64 * 1024);
    let advice = report["advice"].as_array().unwrap();
    assert!(advice.iter().any(|advice| advice["remedy"] == "ulimit -v unlimited"), "{advice:?}");
}
