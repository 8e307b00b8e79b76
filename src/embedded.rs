//! The model that is part of the program: what answers when no model is named. Its card: `models/moewe-mini`.

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

#[cfg(test)]
mod tests {
    use moewe_engine::gguf::Gguf;

    #[test]
    fn the_model_knows_its_name() {
        let gguf = Gguf::from_static(super::model()).unwrap();
        assert_eq!(gguf.metadata().str("general.name").unwrap(), Some("Möwe-mini"));
    }
}
