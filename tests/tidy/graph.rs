//! Which file uses which: modules of a crate, and the paths in their code, resolved through `use` and `pub use`.
//!
//! Reads text, not Rust: names that only a trait or a macro leads to are not seen. Tests and their modules are left out.

use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};

/// A module's names from the crate's root down; the root has none.
pub(crate) type Module = Vec<String>;

/// A crate's modules, each with those that it uses.
pub(crate) struct Graph {
    uses: BTreeMap<Module, BTreeSet<Module>>,
}

struct Code {
    paths: Vec<Module>,                // absolute, of all that is named
    exports: BTreeMap<String, Module>, // what `pub use` hands on
}

impl Graph {
    /// Of a crate's files, each with its place below `src` and its text.
    pub(crate) fn new(crate_name: &str, files: &[(String, String)]) -> Self {
        let modules: BTreeMap<Module, &str> = files
            .iter()
            .filter(|(path, _)| !path.contains("tests"))
            .map(|(path, text)| (module_of(path), &**text))
            .collect();
        let codes: BTreeMap<&Module, Code> = modules
            .iter()
            .map(|(module, text)| (module, Code::read(crate_name, module, &modules, &without_tests(text))))
            .collect();
        let uses = codes
            .iter()
            .map(|(module, code)| {
                let used = code.paths.iter().filter_map(|path| resolved(path, &codes, 0));
                ((*module).clone(), used.filter(|used| used != *module).collect())
            })
            .collect();
        Self { uses }
    }

    /// Modules directly below `parent`, each with those of its siblings that it or a module within it uses.
    pub(crate) fn siblings(&self, parent: &[String]) -> BTreeMap<String, BTreeSet<String>> {
        let depth = parent.len();
        let child =
            |module: &Module| module.starts_with(parent).then(|| module.get(depth).cloned()).flatten();
        let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (module, used) in &self.uses {
            let Some(own) = child(module) else { continue };
            let others = used.iter().filter_map(child).filter(|other| *other != own);
            all.entry(own.clone()).or_default().extend(others);
        }
        all
    }

    /// Modules within `parent` that use what a module owns that they are in themselves.
    pub(crate) fn upward(&self, parent: &[String]) -> Vec<String> {
        let is_around = |outer: &Module, inner: &Module| {
            outer.len() >= parent.len() && outer.len() < inner.len() && inner.starts_with(outer)
        };
        let within = self.uses.iter().filter(|(module, _)| module.starts_with(parent));
        let upward = |(module, used): (&Module, &BTreeSet<Module>)| {
            used.iter().any(|used| is_around(used, module)).then(|| module.join("::"))
        };
        within.filter_map(upward).collect()
    }

    /// Siblings that use each other in a circle, as `parent: a, b`.
    pub(crate) fn circles(&self) -> Vec<String> {
        let mut found = vec![];
        for parent in self.uses.keys() {
            let siblings = self.siblings(parent);
            let reach = |from: &str| {
                let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
                while let Some(name) = open.pop() {
                    open.extend(
                        siblings[name].iter().filter(|next| seen.insert(next.as_str())).map(|n| &**n),
                    );
                }
                seen
            };
            let reached: BTreeMap<&str, BTreeSet<&str>> =
                siblings.keys().map(|name| (&**name, reach(name))).collect();
            let together = |a: &str, b: &str| reached[a].contains(b) && reached[b].contains(a);
            let mut told = BTreeSet::new();
            for name in siblings.keys().filter(|name| together(name, name)) {
                let circle: Vec<&str> =
                    siblings.keys().map(|n| &**n).filter(|other| together(name, other)).collect();
                let line = format!("{}: {}", parent.join("::"), circle.join(", "));
                if told.insert(line.clone()) {
                    found.push(line);
                }
            }
        }
        found
    }
}

impl Code {
    fn read(crate_name: &str, module: &Module, modules: &BTreeMap<Module, &str>, text: &str) -> Self {
        let imports = Regex::new(r"(pub(?:\([^)]*\))?\s+)?use\s+([^;]+);").unwrap();
        let inline = Regex::new(r"\b[A-Za-z_]\w*(?:::\w+)+").unwrap();
        let absolute = |path: &str| absolute(crate_name, module, modules, path);
        let mut code = Self { paths: vec![], exports: BTreeMap::new() };
        for found in imports.captures_iter(text) {
            for path in expanded(&found[2]) {
                let (path, alias) = path.split_once(" as ").unwrap_or((&path, ""));
                let Some(path) = absolute(path.trim()) else { continue };
                let name =
                    if alias.is_empty() { path.last().cloned() } else { Some(alias.trim().to_owned()) };
                if let (Some(name), true) = (name, found.get(1).is_some()) {
                    code.exports.insert(name, path.clone());
                }
                code.paths.push(path);
            }
        }
        let rest = imports.replace_all(text, "");
        code.paths.extend(inline.find_iter(&rest).filter_map(|path| absolute(path.as_str())));
        code
    }
}

fn module_of(path: &str) -> Module {
    let mut names: Module = path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if matches!(names.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        names.pop();
    }
    names
}

/// A path from the crate's root; `None` for what is of other crates or of the file itself.
fn absolute(
    crate_name: &str,
    module: &Module,
    modules: &BTreeMap<Module, &str>,
    path: &str,
) -> Option<Module> {
    let mut names: Vec<String> = path.split("::").map(|name| name.trim().to_owned()).collect();
    let mut base = module.clone();
    if names[0] == "crate" || names[0] == crate_name {
        return Some(names.split_off(1));
    }
    if names[0] == "self" {
        names.remove(0);
    } else if names[0] == "super" {
        while names.first().is_some_and(|name| name == "super") {
            names.remove(0);
            base.pop()?;
        }
    } else if !modules.contains_key(&[&base[..], &names[..1]].concat()) {
        return None;
    }
    base.extend(names);
    Some(base)
}

/// The module that a path leads to, through what modules hand on.
fn resolved(path: &[String], codes: &BTreeMap<&Module, Code>, depth: usize) -> Option<Module> {
    let path = if path.last().is_some_and(|name| name == "self") { &path[..path.len() - 1] } else { path };
    let (module, rest) = (0..=path.len()).rev().find_map(|at| {
        let (module, rest) = path.split_at(at);
        codes.contains_key(&module.to_vec()).then_some((module, rest))
    })?;
    let code = &codes[&module.to_vec()];
    match rest.first().and_then(|name| code.exports.get(name)) {
        Some(target) if depth < 8 => resolved(&[&target[..], &rest[1..]].concat(), codes, depth + 1),
        _ => Some(module.to_vec()),
    }
}

/// The paths of a tree such as `a::{b, c::{d, self}}`.
fn expanded(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((before, inside)) = tree.split_once('{') else { return vec![tree.to_owned()] };
    let inside = inside.trim_end().strip_suffix('}').unwrap_or(inside);
    let (mut parts, mut depth) = (vec![String::new()], 0);
    for c in inside.chars() {
        match c {
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        parts.last_mut().expect("one part at least").push(c);
    }
    let parts = parts.iter().filter(|part| !part.trim().is_empty());
    parts.flat_map(|part| expanded(part)).map(|part| format!("{before}{part}")).collect()
}

/// Code without comments, texts and what is compiled for tests alone.
fn without_tests(text: &str) -> String {
    let text = Regex::new(r"//[^\n]*").unwrap().replace_all(text, "");
    let text = Regex::new(r#""(?:\\.|[^"\\])*""#).unwrap().replace_all(&text, "\"\"");
    let mut rest = &*text;
    let mut code = String::new();
    while let Some((before, item)) = rest.split_once("#[cfg(test)]") {
        code.push_str(before);
        rest = &item[end_of_item(item)..];
    }
    code + rest
}

/// Where an item ends: at its semicolon, or behind its last brace.
fn end_of_item(item: &str) -> usize {
    let mut depth = 0;
    for (at, c) in item.char_indices() {
        match c {
            ';' if depth == 0 => return at + 1,
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    item.len()
}
