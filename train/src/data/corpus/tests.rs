//! Files of every kind, as documents.

use super::*;
use std::io::Write;
use std::path::PathBuf;
use tempfile::TempDir;

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

fn gz(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn source(path: PathBuf, rest: &str) -> Source {
    Source::parse(&format!("{}{rest}", path.display())).unwrap()
}

fn documents(source: &Source, separator: Separator) -> Vec<String> {
    source.documents(separator).collect::<Result<_>>().unwrap()
}

#[test]
fn text_is_cut_at_its_separator() {
    let text = "\u{FEFF}\n\none\r\ntwo\n \t\n\n\nthree ü\n  four".as_bytes();
    let folder = folder(&[("a.txt", text), ("b.txt.gz", &[gz(text), gz(b"\n\nfive")].concat())]);
    let read = |name: &str, separator| documents(&source(folder.path().join(name), ""), separator);
    assert_eq!(read("a.txt", Separator::BlankLine), ["one\ntwo", "three ü\n  four"]);
    assert_eq!(read("a.txt", Separator::Line), ["one", "two", "three ü", "  four"]);
    assert_eq!(read("a.txt", Separator::File), ["\n\none\ntwo\n \t\n\n\nthree ü\n  four"]);
    assert_eq!(read("b.txt.gz", Separator::BlankLine), ["one\ntwo", "three ü\n  four", "five"]);
}

#[test]
fn jsonl_gives_one_field() {
    let text = b"{\"text\": \"a\\n\\nb\", \"id\": 1}\n\n{\"text\": null}\n{\"text\": \" \"}\n{\"text\": \"c\", \"id\": 2}";
    let folder = folder(&[("a.jsonl", text), ("b.jsonl.gz", &gz(b"{\"body\": \"x\"}\n"))]);
    assert_eq!(documents(&source(folder.path().join("a.jsonl"), ""), Separator::Line), ["a\n\nb", "c"]);
    let renamed = Source::parse(&format!("web={}:body", folder.path().join("b.jsonl.gz").display())).unwrap();
    assert_eq!((renamed.name.as_str(), documents(&renamed, Separator::Line)), ("web", vec!["x".to_owned()]));
    let wrong = source(folder.path().join("a.jsonl"), ":body");
    let message = wrong.documents(Separator::Line).next().unwrap().unwrap_err().to_string();
    assert!(
        message.contains("line 1") && message.contains("\"body\"") && message.contains("id"),
        "{message}"
    );
}

#[test]
fn folders_and_names() {
    let folder =
        folder(&[("b.txt", b"2"), ("a.jsonl", b"{\"text\": \"1\"}"), ("README.md", b"no"), ("c.txt", b"")]);
    let all = Source::parse(&format!("all={}", folder.path().display())).unwrap();
    assert_eq!(documents(&all, Separator::BlankLine), ["1", "2"]);
    let argument = |name: &str, file: &str| format!("{name}{}", folder.path().join(file).display());
    let arguments = [argument("x=", "b.txt"), argument("", "c.txt"), argument("x=", "a.jsonl")];
    let sources = Source::parse_all(&arguments).unwrap();
    assert_eq!(sources.iter().map(|source| &*source.name).collect::<Vec<_>>(), ["x", "c"]);
    assert_eq!(documents(&sources[0], Separator::BlankLine), ["2", "1"]);
}

#[test]
fn what_cannot_be_read_is_named() {
    let half = gz(&b"some text that is long enough\n".repeat(50));
    let folder = folder(&[
        ("latin.txt", b"good\nf\xFCnf\n"),
        ("broken.jsonl", b"{\"text\": \"a\"}\n{\"text\": 5}\n{\"text\": \"b\"}"),
        ("list.jsonl", b"[1]"),
        ("half.txt.gz", &half[..half.len() / 2]),
        ("x.doc", b""),
        ("x.parquet.gz", b""),
        ("x.parquet", b"PAR1"),
    ]);
    let cases = [
        ("latin.txt", "", "line 2: expected UTF-8"),
        ("latin.txt", ":text", "no field"),
        ("broken.jsonl", "", "line 2: expected text"),
        ("list.jsonl", "", "a JSON object"),
        ("half.txt.gz", "", "cannot read line"),
        ("x.doc", "", ".jsonl[.gz]"),
        ("x.parquet.gz", "", ".jsonl[.gz]"),
        ("x.parquet", "", "x.parquet"),
    ];
    for (name, rest, expected) in cases {
        let mut documents = source(folder.path().join(name), rest).documents(Separator::BlankLine);
        let error = documents.find_map(Result::err).unwrap().to_string();
        assert!(error.contains(expected) && error.contains(name), "{error}");
        assert!(documents.next().is_none(), "{name} goes on after an error");
    }
    for (argument, expected) in [("/nowhere/x.txt", "cannot open"), ("a b=.", "\"a b\""), ("=.", "NAME=PATH")]
    {
        let message = Source::parse(argument).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    let empty = tempfile::tempdir().unwrap();
    let message = Source::parse(&format!("x={}", empty.path().display())).unwrap_err().to_string();
    assert!(message.contains("files ending in"), "{message}");
}

#[test]
fn bad_lines_are_counted_where_that_is_asked_for() {
    let text = b"{\"text\": \"a\"}\n{\"text\": 5}\nno json\n\xFF\n{\"body\": \"x\"}\n[1]\n{\"text\": \"b\"}\n{\"text\": \"cut";
    let half = gz(&b"{\"text\": \"long enough\"}\n".repeat(90));
    let folder = folder(&[("a.jsonl", text), ("half.jsonl.gz", &half[..half.len() / 2])]);
    let strict = source(folder.path().join("a.jsonl"), "");
    let error = strict.documents(Separator::Line).find_map(Result::err).unwrap().to_string();
    assert!(error.contains("a.jsonl: line 2: "), "{error}");
    let counter = std::sync::Arc::new(BadLines::default());
    let mut lenient = strict;
    lenient.bad_lines = Some(counter.clone());
    assert_eq!(counter.found(), None);
    assert_eq!(documents(&lenient, Separator::Line), ["a", "b"]);
    let (count, first) = counter.found().unwrap();
    assert!(count == 6 && first.contains("a.jsonl: line 2: expected text"), "{count} {first}");
    let mut cut = source(folder.path().join("half.jsonl.gz"), "");
    cut.bad_lines = Some(counter);
    let error = cut.documents(Separator::Line).find_map(Result::err).unwrap().to_string();
    assert!(error.contains("cannot read line"), "a broken archive is no bad line: {error}");
}

#[test]
fn folders_are_read_with_all_in_them() {
    let folder = folder(&[("b.txt", b"2"), ("x.md", b"no"), (".hidden.txt", b"no")]);
    for (name, text) in
        [("a/deep/1.txt", "1"), ("c/3.jsonl", "{\"text\": \"3\"}"), (".git/4.txt", "no"), ("c/y.png", "no")]
    {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let all = Source::parse(&format!("all={}", folder.path().display())).unwrap();
    assert_eq!(documents(&all, Separator::BlankLine), ["1", "2", "3"]);
    let only = folder.path().join("c/y");
    std::fs::create_dir(&only).unwrap();
    ["1.md", "2.md", "3.md", "4.md", "5.md"]
        .iter()
        .for_each(|name| std::fs::write(only.join(name), "").unwrap());
    let message = Source::parse(&format!("x={}", only.display())).unwrap_err().to_string();
    assert!(message.contains("found 1.md, 2.md, 3.md and 2 more"), "{message}");
}

#[cfg(unix)]
#[test]
fn a_link_to_the_folder_above_is_left_out() {
    let folder = folder(&[("b.txt", b"2")]);
    std::os::unix::fs::symlink(folder.path(), folder.path().join("again")).unwrap();
    let all = Source::parse(&format!("all={}", folder.path().display())).unwrap();
    assert_eq!(documents(&all, Separator::BlankLine), ["2"]);
}

#[cfg(feature = "parquet")]
#[test]
fn parquet_gives_one_column() {
    use ::parquet::data_type::{ByteArrayType, Int64Type};
    use ::parquet::file::writer::SerializedFileWriter;
    use ::parquet::schema::parser::parse_message_type;
    use std::sync::Arc;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let schema = "message m { REQUIRED INT64 id; OPTIONAL BINARY text (UTF8); }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let file = std::fs::File::create(&path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::default()).unwrap();
    for texts in [["a", "b"], ["ü", "d"]] {
        let mut group = writer.next_row_group().unwrap();
        let mut ids = group.next_column().unwrap().unwrap();
        ids.typed::<Int64Type>().write_batch(&[1, 2], None, None).unwrap();
        ids.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let values = texts.map(Into::into);
        column.typed::<ByteArrayType>().write_batch(&values, Some(&[1, 1]), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
    assert_eq!(documents(&source(path.clone(), ""), Separator::BlankLine), ["a", "b", "ü", "d"]);
    let find = |field: &str| source(path.clone(), field).documents(Separator::Line).next().unwrap();
    let message = find(":body").unwrap_err().to_string();
    assert!(message.contains("id, text"), "{message}");
    let message = find(":id").unwrap_err().to_string();
    assert!(message.contains("row 1: expected text"), "{message}");
}
