//! The plugin `image-thumbnail`: bytes of an untrusted PNG or JPEG in, a small PNG out.
//!
//! Runs in a helper, with no permission at all: the picture comes with the call and the result goes back with it.
//! Owns the names of its methods; the pictures are the business of `picture.rs`.
//! Never reads a file and never keeps a picture beyond its call.
//!
//! | method | payload | result |
//! | --- | --- | --- |
//! | `thumbnail` | PNG or JPEG | a PNG of at most 256x256, upright, aspect kept, never enlarged |
//! | `thumbnail/N` | PNG or JPEG | the same with at most N pixels a side, N from 1 to 1024 |
//! | `describe` | PNG or JPEG | a line of JSON from the header alone: format, width, height, colour, EXIF orientation |

mod picture;

use picture::PictureError;
use plugin_abi::{Plugin, PluginError, PluginResult, export_plugin};

const DEFAULT_SIDE: u32 = 256;
const LARGEST_SIDE: u32 = 1024;

struct Thumbnail;

impl Plugin for Thumbnail {
    fn call(&mut self, method: &str, payload: &[u8]) -> PluginResult {
        match method.split_once('/') {
            None if method == "thumbnail" => picture::thumbnail(payload, DEFAULT_SIDE).map_err(bad_picture),
            Some(("thumbnail", side)) => picture::thumbnail(payload, side_from(side)?).map_err(bad_picture),
            None if method == "describe" => {
                let description = picture::describe(payload).map_err(bad_picture)?;
                Ok(description.to_json().into_bytes())
            }
            _ => Err(PluginError::unknown_method(method)),
        }
    }
}

fn side_from(text: &str) -> Result<u32, PluginError> {
    match text.parse() {
        Ok(side @ 1..=LARGEST_SIDE) => Ok(side),
        _ => Err(format!("thumbnail/{text}: the size must be a number from 1 to {LARGEST_SIDE}").into()),
    }
}

/// Told apart from other failures, so that a host can say whose fault it was: the picture's.
fn bad_picture(error: PictureError) -> PluginError {
    PluginError::invalid_payload(error.to_string())
}

export_plugin!(
    Thumbnail,
    id: "image-thumbnail",
    description: "Makes a small PNG of an untrusted PNG or JPEG",
);

#[cfg(test)]
mod tests {
    use plugin_abi::ErrorKind;

    use super::*;

    const LAKE: &[u8] = include_bytes!("../assets/lake.jpg");

    fn call(method: &str) -> PluginResult {
        Thumbnail.call(method, LAKE)
    }

    #[test]
    fn the_method_chooses_the_size() {
        for (method, size) in [("thumbnail", (256, 171)), ("thumbnail/64", (64, 43)), ("thumbnail/1", (1, 1))]
        {
            let png = call(method).expect("our own picture");
            assert_eq!(
                image::load_from_memory(&png).expect("a PNG").to_rgb8().dimensions(),
                size,
                "{method}"
            );
        }
    }

    #[test]
    fn a_size_out_of_range_is_an_error_that_names_the_range() {
        for method in ["thumbnail/0", "thumbnail/1025", "thumbnail/-1", "thumbnail/", "thumbnail/64x64"] {
            let refused = call(method).expect_err("out of range").to_string();
            assert!(refused.contains("from 1 to 1024"), "{method}: {refused}");
        }
    }

    #[test]
    fn a_method_it_does_not_have_is_an_error() {
        for method in ["", "Thumbnail", "describe/2", "thumbnails"] {
            assert_eq!(
                call(method).expect_err("no such method").kind,
                ErrorKind::UnknownMethod,
                "{method:?}"
            );
        }
    }

    #[test]
    fn a_bad_picture_is_the_payloads_fault() {
        let refused = Thumbnail.call("thumbnail", b"no picture").expect_err("no picture");
        assert_eq!(refused.kind, ErrorKind::InvalidPayload);
    }
}
