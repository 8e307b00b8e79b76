//! Parquet, the hub's usual file: one column of strings holds the documents. Read in batches of rows.
//!
//! Behind the feature `parquet`, because the reader is larger than all the rest of the trainer's data code.

use super::{Documents, Input, Kind};
use crate::Result;

pub(super) const KIND: Kind = Kind { endings: &["parquet"], may_be_compressed: false, open };

#[cfg(not(feature = "parquet"))]
fn open(input: &Input) -> Result<Documents> {
    let what = "Parquet is not part of this build";
    let hint =
        "build with `cargo build --release -p moewe-train --features parquet`, or write the corpus as JSONL";
    Err(moewe_engine::Error::unsupported(what, hint).in_file(input.path).into())
}

#[cfg(feature = "parquet")]
use reading::open;

#[cfg(feature = "parquet")]
mod reading {
    use super::{Documents, Input, Result};
    use crate::Error;
    use crate::data::corpus::DEFAULT_FIELD;
    use parquet::errors::ParquetError;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::reader::RowIter;
    use parquet::record::{Field, Row};
    use parquet::schema::types::{Type, TypePtr};
    use std::fs::File;
    use std::path::{Path, PathBuf};

    pub(super) fn open(input: &Input) -> Result<Documents> {
        let path = input.path;
        let file = File::open(path).map_err(|error| Error::io(path, "open", error))?;
        let reader = SerializedFileReader::new(file).map_err(|error| broken(path, "footer", error))?;
        let wanted = input.field.unwrap_or(DEFAULT_FIELD);
        let column = column(path, reader.metadata().file_metadata().schema(), wanted)?;
        let rows = RowIter::from_file_into(Box::new(reader)).project(Some(column));
        let rows = rows.map_err(|error| broken(path, "schema", error))?;
        Ok(Box::new(Rows { rows, number: 0, is_over: false, path: path.to_owned() }))
    }

    fn broken(path: &Path, place: impl Into<String>, error: ParquetError) -> Error {
        Error::malformed(path, place, "a Parquet file that can be read", error)
    }

    /// The schema with the column `wanted` only.
    fn column(path: &Path, schema: &Type, wanted: &str) -> Result<Type> {
        let columns: &[TypePtr] = schema.get_fields();
        let Some(column) = columns.iter().find(|column| column.name() == wanted) else {
            let names = columns.iter().take(20).map(|column| column.name()).collect::<Vec<_>>().join(", ");
            let expected = format!("a column {wanted:?}");
            return Err(Error::malformed(
                path,
                "schema",
                expected,
                format!("{names} (choose with PATH:FIELD)"),
            ));
        };
        let group = Type::group_type_builder(schema.name()).with_fields(vec![column.clone()]).build();
        group.map_err(|error| broken(path, "schema", error))
    }

    struct Rows {
        rows: RowIter<'static>,
        number: u64, // of the row last read, from 1
        is_over: bool,
        path: PathBuf,
    }

    impl Rows {
        fn text(&self, row: Result<Row, ParquetError>) -> Result<String> {
            let place = || format!("row {}", self.number);
            let row = row.map_err(|error| broken(&self.path, place(), error))?;
            match row.get_column_iter().next() {
                Some((_, Field::Str(text))) => Ok(text.clone()),
                None | Some((_, Field::Null)) => Ok(String::new()),
                Some((_, Field::Bytes(bytes))) => String::from_utf8(bytes.data().to_vec())
                    .map_err(|error| Error::malformed(&self.path, place(), "UTF-8", error)),
                Some((_, other)) => Err(Error::malformed(&self.path, place(), "text", other)),
            }
        }
    }

    impl Iterator for Rows {
        type Item = Result<String>;

        fn next(&mut self) -> Option<Self::Item> {
            let row = if self.is_over { None } else { self.rows.next() }?;
            self.number += 1;
            let text = self.text(row);
            self.is_over = text.is_err();
            Some(text)
        }
    }
}
