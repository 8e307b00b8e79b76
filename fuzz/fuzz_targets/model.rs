//! The engine: a file is refused, or loads and computes a step.

#![no_main]

use libfuzzer_sys::fuzz_target;
use moewe_engine::gguf::{Bytes, Gguf};
use moewe_engine::session::{Engine, Options};
use moewe_engine::tokenizer::Special;

fuzz_target!(|file: &[u8]| {
    let Ok(gguf) = Gguf::from_bytes(Bytes::from(file.to_vec())) else { return };
    let options = Options { threads: Some(1), ..Options::default() };
    let Ok(engine) = Engine::from_gguf(gguf, options) else { return };
    if let Ok(tokenizer) = engine.tokenizer()
        && let Ok(tokens) = tokenizer.encode_with_bos("ab </s>a\n\u{1f600}", Special::Parse)
    {
        tokenizer.decode(&tokens);
    }
    let Ok(mut session) = engine.session() else { return };
    let _ = session.extend(&[0, 1]);
});
