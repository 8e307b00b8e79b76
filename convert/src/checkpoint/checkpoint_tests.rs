//! Opening real checkpoints of both kinds, and thousands of damaged ones: every one ends in Ok or Err.

use super::contents::Found;
use super::memory::Bytes;
use super::*;
use std::path::PathBuf;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

fn floats(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let bytes = checkpoint.elements(checkpoint.get(name).unwrap());
    bytes.as_chunks::<4>().0.iter().map(|&four| f32::from_le_bytes(four)).collect()
}

#[test]
fn trainer_pickle_with_config_object_and_shared_storage() {
    let checkpoint = Checkpoint::open(&golden("tachyon-checkpoint")).unwrap();
    assert_eq!(checkpoint.config["architectures"][0], "TachyonConfig");
    assert_eq!(checkpoint.config["n_shared_experts"], 2);
    assert_eq!(checkpoint.config["rope_theta"], 10000.0);
    let [embed, head] = ["embed.weight", "lm_head.weight"].map(|name| checkpoint.get(name).unwrap());
    assert_eq!(
        (embed.dtype, &embed.shape[..], &embed.strides[..]),
        (Dtype::Bf16, &[256, 64][..], &[64, 1][..])
    );
    assert_eq!(checkpoint.elements(embed).as_ptr(), checkpoint.elements(head).as_ptr());
    assert!(checkpoint.tensors().iter().all(|tensor| !tensor.name.contains("orig_mod")));
}

#[test]
fn wrapped_state_dict_with_prefixes() {
    let checkpoint = Checkpoint::open(&golden("moe-124m-checkpoint")).unwrap();
    assert_eq!(checkpoint.config["model_type"], "moe_124m");
    assert_eq!(checkpoint.get("token_emb.weight").unwrap().shape, [160, 64]);
    assert!(floats(&checkpoint, "blocks.1.ln1.weight").iter().all(|w| w.is_finite()));
}

#[test]
fn safetensors_folder() {
    let checkpoint = Checkpoint::open(&golden("mixtral")).unwrap();
    let tensor = checkpoint.get("model.layers.1.block_sparse_moe.experts.3.w2.weight").unwrap();
    assert_eq!((tensor.dtype, &tensor.shape[..]), (Dtype::Bf16, &[256, 256][..]));
    assert_eq!(checkpoint.elements(tensor).len(), 256 * 256 * 2);
}

#[test]
fn shards_are_found_through_the_index() {
    let folder = tempfile::tempdir().unwrap();
    let mut map = serde_json::Map::new();
    for (i, name) in ["a", "b"].into_iter().enumerate() {
        let file = format!("model-0000{}-of-00002.safetensors", i + 1);
        let header = format!(r#"{{"{name}":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}}}"#);
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([i as f32, 7.0].iter().flat_map(|value| value.to_le_bytes()));
        std::fs::write(folder.path().join(&file), bytes).unwrap();
        map.insert(name.into(), file.into());
    }
    let index = serde_json::json!({ "weight_map": map });
    std::fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    std::fs::write(folder.path().join("config.json"), "{}").unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(floats(&checkpoint, "b"), [1.0, 7.0]);
}

#[test]
fn messages_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let message = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(message.contains("no weights"), "{message}");
    std::fs::write(folder.path().join("a.pt"), b"\x80\x02}.").unwrap();
    let message = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(message.contains("torch"), "{message}");
}

fn found(name: &str, shape: &[u64], strides: &[u64], end: usize) -> Found {
    let (shape, strides) = (shape.to_vec(), strides.to_vec());
    Found { name: name.into(), dtype: Dtype::F32, shape, strides, file: 0, start: 0, end }
}

#[test]
fn views_stay_in_their_storage_and_do_not_overlap() {
    let cases: &[(&[u64], &[u64], bool)] = &[
        (&[4, 4], &[4, 1], true),
        (&[4, 4], &[1, 4], true),
        (&[2, 3], &[8, 2], true),
        (&[], &[], true),
        (&[0, 4], &[4, 1], true),
        (&[1, 4], &[u64::MAX, 1], true),
        (&[5, 4], &[4, 1], false),
        (&[4, 4], &[5, 1], false),
        (&[1 << 20, 1 << 20], &[0, 0], false),
        (&[u64::MAX, 3], &[0, 0], false),
        (&[4, 4], &[2, 1], false),
        (&[4, 4], &[1], false),
        (&[2, 2, 2, 2, 1, 1, 1, 1, 1], &[8, 4, 2, 1, 1, 1, 1, 1, 1], false),
    ];
    for &(shape, strides, sound) in cases {
        let result = Checkpoint::new(PathBuf::new()).add_tensor(found("a", shape, strides, 64));
        assert_eq!(result.is_ok(), sound, "{shape:?} {strides:?}: {result:?}");
    }
    for name in ["a\u{1b}[2J", &"a".repeat(2000)] {
        assert!(Checkpoint::new(PathBuf::new()).add_tensor(found(name, &[1], &[1], 64)).is_err());
    }
}

/// A small deterministic generator: the seed of a failing case can be printed and repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// Damages one to four places of `range`: flipped bits, extreme values, bytes copied from elsewhere, a cut.
fn damage(bytes: &mut Vec<u8>, range: std::ops::Range<usize>, random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        let at = range.start + random.below(range.len());
        match random.below(5) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            2 => bytes[at] = bytes[range.start + random.below(range.len())],
            3 => bytes[at..(at + 4).min(range.end)].fill(0xff),
            _ => bytes[at] = random.next() as u8,
        }
    }
    if random.below(50) == 0 {
        bytes.truncate(range.start + random.below(range.len()));
    }
}

fn find(bytes: &[u8], needle: &[u8]) -> usize {
    bytes.windows(needle.len()).position(|window| window == needle).unwrap()
}

fn open_bytes(bytes: Vec<u8>) -> Result<Checkpoint> {
    let mut checkpoint = Checkpoint::new(PathBuf::new());
    open::add_bytes(&mut checkpoint, Path::new("damaged"), Bytes::from(bytes))?;
    for tensor in checkpoint.tensors() {
        assert!(!checkpoint.elements(tensor).is_empty() || tensor.shape.contains(&0));
    }
    Ok(checkpoint)
}

#[test]
fn damaged_files_end_in_ok_or_err() {
    let pickle = std::fs::read(golden("moe-124m-checkpoint/state_dict.pt")).unwrap();
    let start = find(&pickle, b"\x80\x02}");
    let trainer = std::fs::read(golden("tachyon-checkpoint/checkpoint_2000.pt")).unwrap();
    let trainer_start = find(&trainer, b"\x80\x02}");
    let directory = find(&pickle, b"PK\x01\x02");
    let safetensors = std::fs::read(golden("german-moe-bias/model.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(safetensors[..8].try_into().unwrap()) as usize;
    let cases = [
        ("pickle", &pickle, start..start + 5473),
        ("trainer pickle", &trainer, trainer_start..trainer_start + 13999),
        ("zip directory", &pickle, directory..pickle.len()),
        ("safetensors header", &safetensors, 0..header),
    ];
    for (name, original, range) in cases {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let (mut opened, rounds) = (0, 1500);
        for _ in 0..rounds {
            let mut bytes = original.clone();
            damage(&mut bytes, range.clone(), &mut random);
            opened += open_bytes(bytes).is_ok() as usize;
        }
        // Damage that hits names and optimizer numbers leaves a readable file: both ends must occur.
        assert!(opened > 0 && opened < rounds, "{name}: {opened} of {rounds} opened");
    }
}
