//! The pickle reader on hand-made pickles of every protocol, on hostile ones, and on mutations of real ones.

use super::*;

fn read(bytes: &[u8]) -> Result<Node<'_>> {
    let pickle = Pickle::read(bytes)?;
    Ok(pickle.node(pickle.root).clone())
}

#[test]
fn scalars_of_all_protocols() {
    let cases: &[(&[u8], Node)] = &[
        (b"N.", Node::Nothing),
        (b"\x88.", Node::Bool(true)),
        (b"I01\n.", Node::Bool(true)),
        (b"I-7\n.", Node::Int(-7)),
        (b"L12345678901L\n.", Node::Int(12_345_678_901)),
        (b"J\xfe\xff\xff\xff.", Node::Int(-2)),
        (b"K\xff.", Node::Int(255)),
        (b"M\x00\x01.", Node::Int(256)),
        (b"\x8a\x00.", Node::Int(0)),
        (b"\x8a\x01\xff.", Node::Int(-1)),
        (b"\x8a\x09\0\0\0\0\0\0\0\0\x01.", Node::Nothing),
        (b"F1.5\n.", Node::Float(1.5)),
        (b"G\x3f\xf8\0\0\0\0\0\0.", Node::Float(1.5)),
        (b"S'ab'\n.", Node::Text("ab")),
        (b"Vab\n.", Node::Text("ab")),
        (b"U\x02ab.", Node::Text("ab")),
        (b"X\x02\0\0\0ab.", Node::Text("ab")),
        (b"\x80\x04\x95\0\0\0\0\0\0\0\0\x8c\x02ab.", Node::Text("ab")),
        (b"C\x02ab.", Node::Bytes(b"ab")),
        (b"\x80\x05\x96\x02\0\0\0\0\0\0\0ab.", Node::Bytes(b"ab")),
        (b"cos\nsystem\n.", Node::Global("os", "system")),
        (b"\x8c\x02os\x8c\x06system\x93.", Node::Global("os", "system")),
    ];
    for (bytes, expected) in cases {
        assert_eq!(&read(bytes).unwrap(), expected, "{}", bytes.escape_ascii());
    }
}

#[test]
fn memo_shares_a_list_that_grows_later() {
    let pickle = Pickle::read(b"]q\x00(h\x00K\x01tq\x01K\x020h\x00K\x07a0.").unwrap();
    let items = pickle.items(pickle.root).unwrap();
    let list = pickle.items(items[0]).unwrap();
    assert_eq!(pickle.size(list[0]), Some(7));
}

#[test]
fn calls_stay_inert() {
    let pickle = Pickle::read(b"cos\nsystem\n(S'echo pwned'\ntR.").unwrap();
    assert_eq!(pickle.class(pickle.root), Some("system"));
    assert!(pickle.entries(pickle.root).is_none());
    let pickle = Pickle::read(b"cmodel\nConfig\n)\x81}(U\x01aK\x05ub.").unwrap();
    assert_eq!(pickle.class(pickle.root), Some("Config"));
    assert_eq!(pickle.get(pickle.root, "a").and_then(|id| pickle.size(id)), Some(5));
}

#[test]
fn hostile_pickles_are_refused() {
    let cases: &[(&str, &[u8])] = &[
        ("empty", b""),
        ("no stop", b"N"),
        ("stack underflow", b"0."),
        ("tuple underflow", b"K\x01\x87."),
        ("pop below a mark", b"K\x01(\x85."),
        ("tuple without mark", b"t."),
        ("memo without entry", b"h\x05."),
        ("memo of nothing", b"q\x00."),
        ("text beyond the end", b"X\xff\xff\xff\xffab."),
        ("text of 2^64 bytes", b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffab."),
        ("long beyond the end", b"\x8b\xff\xff\xff\x7f."),
        ("line without end", b"cos"),
        ("append to a number", b"K\x01K\x02a."),
        ("setitems of an odd number", b"}(K\x01u."),
        ("dict of an odd number", b"(K\x01d."),
        ("protocol 6", b"\x80\x06N."),
        ("extension", b"\x82\x01."),
        ("out-of-band buffer", b"\x97."),
        ("not UTF-8", b"X\x01\0\0\0\xff."),
        ("class from nothing", b"(o."),
    ];
    for (name, bytes) in cases {
        assert!(Pickle::read(bytes).is_err(), "{name}");
    }
}

/// Each byte opens a list inside the one before: deep, but flat in memory and without recursion.
#[test]
fn depth_costs_nothing() {
    let mut bytes = vec![b']'; 200_000];
    bytes.extend(std::iter::repeat_n(b'a', 199_999));
    bytes.push(b'.');
    assert!(Pickle::read(&bytes).is_ok());
}
