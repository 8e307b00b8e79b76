//! Parts of the hostile file tests: a generator, the map of a file, what to break, sound files to start from and
//! the loop that counts outcomes.

pub(crate) mod cases;
pub(crate) mod drive;
pub(crate) mod json;
pub(crate) mod layout;
pub(crate) mod mutate;
pub(crate) mod random;
pub(crate) mod samples;
