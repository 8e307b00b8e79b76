//! The model that is part of the program: what answers when no model is named, and the adapter with which it does so in
//! turns. Its card: `models/moewe-mini`.

use moewe_engine::gguf::Gguf;
use moewe_engine::model::Adapter;

/// Its name among the models.
pub(crate) const NAME: &str = "moewe-mini";

/// Bytes at an address that fits every block and a cache line.
#[repr(C, align(64))]
struct Aligned<B: ?Sized>(B);

static MODEL: &Aligned<[u8]> = &Aligned(*include_bytes!("../models/moewe-mini/moewe-mini.gguf"));

/// Its GGUF file.
pub(crate) fn model() -> &'static [u8] {
    &MODEL.0
}

static CHAT: &Aligned<[u8]> = &Aligned(*include_bytes!("../models/moewe-mini/chat/moewe-mini-chat.gguf"));

/// The adapter for chats with it.
pub(crate) fn chat() -> moewe_engine::Result<Adapter> {
    Adapter::read(&Gguf::from_static(&CHAT.0)?, format!("{NAME}-chat"), 1.0)
}

#[cfg(test)]
mod tests {
    use moewe_engine::gguf::Gguf;
    use moewe_engine::model::Model;

    #[test]
    fn the_adapter_is_the_models() {
        let adapter = super::chat().unwrap();
        assert!(adapter.chat_template.as_ref().is_some_and(|template| template.contains("MÖWE.")));
        let gguf = Gguf::from_static(super::model()).unwrap();
        assert!(Model::bind_with(&gguf, &[adapter]).unwrap().weights.is_adapted);
        assert!(super::CHAT.0.len() <= 2 << 20);
    }

    #[test]
    fn the_model_knows_its_name() {
        let gguf = Gguf::from_static(super::model()).unwrap();
        assert_eq!(gguf.metadata().str("general.name").unwrap(), Some("Möwe-mini"));
    }
}
