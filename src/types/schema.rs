//! How ids, paths and digests are described in the API: texts of a certain form.

use std::borrow::Cow;

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::limits::PATH_BYTES_MAX;
use super::{DfsPath, EntryId, EventId, Generation, ObjectId, ServerId, Sha256};

/// A name in a path: one to 255 bytes without a slash and NUL, and neither `.` nor `..`. (The lengths are of characters:
/// a pattern cannot count bytes.)
const NAME: &str = r"([^./\u0000][^/\u0000]{0,254}|\.[^./\u0000][^/\u0000]{0,253}|\.\.[^/\u0000]{1,253})";
/// An id.
const ID: &str = "^[0-7][0-9a-f]{15}$";

fn text(description: &str, pattern: String, lengths: (usize, usize), example: &str) -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some(description))
        .pattern(Some(pattern))
        .min_length(Some(lengths.0))
        .max_length(Some(lengths.1))
        .examples([example])
        .into()
}

impl PartialSchema for DfsPath {
    fn schema() -> RefOr<Schema> {
        let description = "An absolute path: names of 1 to 255 bytes, 4,096 bytes in all";
        text(description, format!("^(/|(/{NAME})+)$"), (1, PATH_BYTES_MAX), "/photos/2026/cat.jpg")
    }
}

impl ToSchema for DfsPath {
    fn name() -> Cow<'static, str> {
        "Path".into()
    }
}

/// The path in a URL behind `/files/`: without its first slash.
pub struct PathBehindFiles;

impl PartialSchema for PathBehindFiles {
    fn schema() -> RefOr<Schema> {
        let description = "A path without its first slash; slashes inside it are part of the URL's path";
        text(description, format!("^{NAME}(/{NAME})*$"), (1, PATH_BYTES_MAX - 1), "photos/2026/cat.jpg")
    }
}

impl ToSchema for PathBehindFiles {}

/// A UUID, as it is described.
pub struct Uuid;

impl PartialSchema for Uuid {
    fn schema() -> RefOr<Schema> {
        let pattern = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$";
        text("A UUID", pattern.into(), (36, 36), "67e55044-10b1-426f-9247-bb680e5fe0c8")
    }
}

impl ToSchema for Uuid {}

impl PartialSchema for Sha256 {
    fn schema() -> RefOr<Schema> {
        text("A SHA-256", "^[0-9a-f]{64}$".into(), (64, 64), &Sha256::of(b"").to_string())
    }
}

impl ToSchema for Sha256 {}

macro_rules! id_schema {
    ($($name:ident: $description:literal),*) => {
        $(
            impl PartialSchema for $name {
                fn schema() -> RefOr<Schema> {
                    text($description, ID.into(), (16, 16), "0123456789abcdef")
                }
            }

            impl ToSchema for $name {}
        )*
    };
}

id_schema! {
    ObjectId: "The id of an object: the bytes of one version of one file",
    EntryId: "The id of a file or directory",
    EventId: "The id of an event; rising. A decimal number is understood too",
    Generation: "The number of one copy of an object",
    ServerId: "The id of a storage server"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_are_what_they_show() {
        assert!("/photos/2026/cat.jpg".parse::<DfsPath>().is_ok());
        assert!("0123456789abcdef".parse::<ObjectId>().is_ok());
    }
}
