//! From a base model to one that answers: Möwe-mini and two hundred short chats. The loss of answers that it has not
//! seen falls, and its answers end by themselves.

mod support;

use moewe_convert::adapter::Named;
use moewe_convert::{Options as ConvertOptions, convert};
use moewe_engine::dialogue::{Dialogue, StopScanner};
use moewe_engine::generate::{Answer, Ending};
use moewe_engine::quant::Format;
use moewe_engine::sampler::{Sampler, Sampling};
use moewe_engine::session::{Engine, Options};
use moewe_engine::tokenizer::{ChatTemplate, Message};
use std::path::Path;
use support::process::{events_of, trainer};

const THINGS: [&str; 10] = [
    "das Boot",
    "der Hafen",
    "die Möwe",
    "der Fischer",
    "das Netz",
    "der Wind",
    "die Insel",
    "der Turm",
    "das Segel",
    "der Strand",
];
const PLACES: [&str; 20] = [
    "am Meer",
    "im Norden",
    "bei Kiel",
    "hinter dem Deich",
    "vor der Stadt",
    "am Ufer",
    "im Nebel",
    "auf der Düne",
    "am Steg",
    "unter der Brücke",
    "am Abend",
    "im Winter",
    "bei Husum",
    "auf dem Markt",
    "am Tor",
    "im Garten",
    "am Fluss",
    "auf dem Berg",
    "im Wald",
    "am Weg",
];

/// Questions with their answers, one for each thing and each of these places.
fn chats(places: &[&str]) -> String {
    let line = |place: &str, thing: &str| {
        let turns = serde_json::json!([
            { "role": "user", "content": format!("Wo ist {thing}?") },
            { "role": "assistant", "content": format!("Ich weiß es: {thing} ist {place}.") },
        ]);
        serde_json::json!({ "messages": turns }).to_string() + "\n"
    };
    places.iter().flat_map(|place| THINGS.iter().map(move |thing| line(place, thing))).collect()
}

/// What a model says to a question, and why it ended.
fn answer(engine: &Engine, question: &str) -> (String, Option<Ending>) {
    let tokenizer = engine.tokenizer().unwrap();
    let template = ChatTemplate::from_metadata(engine.metadata(), tokenizer).unwrap().unwrap();
    let prompt = template.render(&[Message::new("user", question)], true).unwrap();
    let tokens = tokenizer.encode_parts(prompt.parts()).unwrap();
    let mut sampler = Sampler::new(Sampling::greedy(), engine.config().vocab_size).unwrap();
    let mut session = engine.session().unwrap();
    let reader = Dialogue::of(&template).reader(prompt.text(), StopScanner::default(), None);
    let mut answer = Answer::start(&mut session, &mut sampler, &tokens, Some(40), reader).unwrap();
    let mut said = String::new();
    while let Some(pieces) = answer.next_pieces().unwrap() {
        pieces.iter().for_each(|piece| said.push_str(piece.text()));
    }
    (said, answer.ending())
}

#[test]
fn a_base_model_learns_to_answer() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/moewe-mini");
    let work = tempfile::tempdir().unwrap();
    let path = |name: &str| work.path().join(name).display().to_string();
    std::fs::write(work.path().join("chats.jsonl"), chats(&PLACES)).unwrap();
    std::fs::write(work.path().join("unseen.jsonl"), chats(&["im Süden", "am Himmel"])).unwrap();
    let call = trainer(["finetune", &model.display().to_string(), "--data", &path("chats.jsonl")]);
    let call = call.args(["--validation", &path("unseen.jsonl"), "-o", &path("adapter"), "--chat-template"]);
    let call = call.args([model.join("chat/chat_template.jinja")]);
    let more = "--train lora --lora-rank 8 --learning-rate 0.003 --context 128 --batch 4 --epochs 2 --eval-every 2 -q \
                --monitor jsonl";
    call.args(more.split_whitespace()).succeed();
    let losses: Vec<f64> = events_of(&work.path().join("adapter"), "validation")
        .iter()
        .map(|event| event["loss"].as_f64().unwrap())
        .collect();
    assert!(losses.len() > 3 && losses[losses.len() - 1] < losses[0] - 0.5, "{losses:?}");
    let mut options = ConvertOptions::new(Format::by_name("Q8_0").unwrap());
    options.adapters = vec![Named { path: work.path().join("adapter"), scale: 1.0 }];
    let file = work.path().join("m.gguf");
    convert(&model, &file, &options, &()).unwrap();
    let engine = Engine::open(&file, Options::default()).unwrap();
    for question in ["Wo ist der Mond?", "Wo ist die Katze?", "Wo ist das Haus?", "Wo ist der Hund?"] {
        let (said, ending) = answer(&engine, question);
        assert_eq!(ending, Some(Ending::EndOfText), "{question} {said}");
        assert!(said.starts_with("Ich weiß es:"), "{question} {said}");
    }
}
