//! From untrusted picture bytes to a small PNG: find the format, check the size, decode, shrink, encode.
//!
//! Runs in the plugin's helper, called by `lib.rs`; as pure functions they run in the unit tests as well.
//! Owns what counts as too large: a picture is judged by its header, before memory is taken for its pixels.
//! Never opens a file and never trusts what a picture says of itself: the sandbox stands behind it, not instead.

use std::{error::Error, io::Cursor};

use image::codecs::png::{CompressionType, FilterType as RowFilter, PngEncoder};
use image::imageops::FilterType;
use image::metadata::Orientation;
use image::{DynamicImage, GenericImageView, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

/// The longest side that is decoded, in pixels.
pub(crate) const MAX_SIDE: u32 = 20_000;

/// What a picture may need while it is decoded. A sandbox has 100 MiB unless told otherwise; the rest is for
/// the process itself, its stacks and the channel.
pub(crate) const MAX_WORKING_BYTES: u64 = 72 << 20;

/// Why a picture was not made smaller. Each message names the format, as far as it is known by then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PictureError {
    #[error("no picture: the payload is empty")]
    Empty,

    #[error(
        "not a picture in a known format: the {length} bytes start with [{start}]; png and jpeg are decoded"
    )]
    UnknownFormat { length: usize, start: String },

    #[error("the picture is {format}; only png and jpeg are decoded")]
    OtherFormat { format: &'static str },

    #[error("{format}: {width}x{height} pixels: a side may have at most {MAX_SIDE}")]
    TooLong { format: &'static str, width: u32, height: u32 },

    #[error(
        "{format}: {width}x{height} pixels need about {} MiB to decode: at most {} MiB are used",
        needed_bytes >> 20,
        MAX_WORKING_BYTES >> 20
    )]
    TooLarge { format: &'static str, width: u32, height: u32, needed_bytes: u64 },

    #[error("{format}: {step}: {reason}")]
    Codec { format: &'static str, step: &'static str, reason: String },
}

/// What is known of a picture once its header has been read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Description {
    pub(crate) format: &'static str,
    /// As the pixels are stored, before `orientation` is applied.
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// `Rgb8`, `Rgba16`, `L8`, ...
    pub(crate) colour: String,
    /// The EXIF number, 1 (upright) to 8.
    pub(crate) orientation: u8,
}

impl Description {
    /// One line of JSON. Nothing in it needs escaping: the two words come from fixed lists.
    pub(crate) fn to_json(&self) -> String {
        let Self { format, width, height, colour, orientation } = self;
        format!(
            r#"{{"format":"{format}","width":{width},"height":{height},"colour":"{colour}","orientation":{orientation}}}"#
        )
    }
}

/// Reads the header only: no memory is taken for the pixels, however many the picture claims to have.
pub(crate) fn describe(bytes: &[u8]) -> Result<Description, PictureError> {
    let format = known_format(bytes)?;
    let mut decoder = open(bytes, format)?;
    let (width, height) = decoder.dimensions();
    Ok(Description {
        format: name(format),
        width,
        height,
        colour: format!("{:?}", decoder.color_type()),
        orientation: orientation(&mut decoder).to_exif(),
    })
}

/// A PNG of the picture, upright, with its aspect kept and no side longer than `max_side`; never enlarged.
pub(crate) fn thumbnail(bytes: &[u8], max_side: u32) -> Result<Vec<u8>, PictureError> {
    let format = known_format(bytes)?;
    let failed = |step| move |error| codec_error(name(format), step, &error);

    let mut decoder = open(bytes, format)?;
    check_size(bytes, format, &decoder)?;
    decoder.set_limits(limits()).map_err(failed("check the header"))?;
    let turned = orientation(&mut decoder);
    let picture = DynamicImage::from_decoder(decoder).map_err(failed("decode"))?;

    let mut small = shrink(&picture, max_side);
    drop(picture);
    // After shrinking, since turning needs a second copy; the box is square, so the order does not show.
    small.apply_orientation(turned);
    encode(&small).map_err(|error| codec_error("png", "encode the result", &error))
}

/// The size that fits into a square of `max_side`; at least one pixel each way, and never larger than the original.
pub(crate) fn fit(width: u32, height: u32, max_side: u32) -> (u32, u32) {
    let longest = width.max(height);
    if longest <= max_side {
        return (width, height);
    }
    let scaled = |side: u32| {
        let rounded = (u64::from(side) * u64::from(max_side) + u64::from(longest) / 2) / u64::from(longest);
        u32::try_from(rounded).unwrap_or(max_side).clamp(1, max_side)
    };
    (scaled(width), scaled(height))
}

/// The format by its first bytes: a name or a type that came along with the picture would be only a claim.
fn known_format(bytes: &[u8]) -> Result<ImageFormat, PictureError> {
    if bytes.is_empty() {
        return Err(PictureError::Empty);
    }
    match image::guess_format(bytes) {
        Ok(format @ (ImageFormat::Png | ImageFormat::Jpeg)) => Ok(format),
        Ok(other) => Err(PictureError::OtherFormat { format: name(other) }),
        Err(_) => {
            let start: Vec<String> = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            Err(PictureError::UnknownFormat { length: bytes.len(), start: start.join(" ") })
        }
    }
}

fn name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Png => "png",
        ImageFormat::Jpeg => "jpeg",
        other => other.extensions_str().first().copied().unwrap_or("another format"),
    }
}

/// The library wraps the codec's error in one that names the format again: what it wraps is the reason.
fn codec_error(format: &'static str, step: &'static str, error: &ImageError) -> PictureError {
    let reason = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    PictureError::Codec { format, step, reason }
}

fn limits() -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_WORKING_BYTES);
    limits
}

fn open<'a>(bytes: &'a [u8], format: ImageFormat) -> Result<impl ImageDecoder + 'a, PictureError> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    // No limit on the sides yet: the library's error would not say how large the picture claims to be.
    let mut only_memory = Limits::no_limits();
    only_memory.max_alloc = limits().max_alloc;
    reader.limits(only_memory);
    reader.into_decoder().map_err(|error| codec_error(name(format), "read the header", &error))
}

/// A picture whose orientation cannot be read is shown as it is stored.
fn orientation(decoder: &mut impl ImageDecoder) -> Orientation {
    decoder.orientation().unwrap_or(Orientation::NoTransforms)
}

fn check_size(bytes: &[u8], format: ImageFormat, decoder: &impl ImageDecoder) -> Result<(), PictureError> {
    let (width, height) = decoder.dimensions();
    if width > MAX_SIDE || height > MAX_SIDE {
        return Err(PictureError::TooLong { format: name(format), width, height });
    }
    let pixels = decoder.total_bytes();
    let coefficients = match format {
        // The decoder keeps 16 bits for each value until the last scan is in, and does not count them.
        ImageFormat::Jpeg if in_many_scans(bytes) => pixels.saturating_mul(2),
        _ => 0,
    };
    // The payload lies in memory too, and the JPEG decoder makes itself a copy.
    let input = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let needed_bytes = pixels.saturating_add(coefficients).saturating_add(input);
    if needed_bytes > MAX_WORKING_BYTES {
        return Err(PictureError::TooLarge { format: name(format), width, height, needed_bytes });
    }
    Ok(())
}

/// Whether a JPEG is progressive, by walking its segments up to the frame header.
fn in_many_scans(bytes: &[u8]) -> bool {
    const START_OF_FRAME_BASELINE: u8 = 0xc0;
    const START_OF_FRAME_EXTENDED: u8 = 0xc1;
    const START_OF_FRAME_PROGRESSIVE: u8 = 0xc2;
    const START_OF_SCAN: u8 = 0xda;

    let mut rest = bytes.get(2..).unwrap_or_default();
    while let [0xff, marker, tail @ ..] = rest {
        match (*marker, tail) {
            (START_OF_FRAME_BASELINE | START_OF_FRAME_EXTENDED, _) => return false,
            (START_OF_FRAME_PROGRESSIVE | START_OF_SCAN, _) => return true,
            // A run of 0xff is padding before a marker.
            (0xff, _) => rest = rest.get(1..).unwrap_or_default(),
            (_, [high, low, ..]) => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                rest = tail.get(length..).unwrap_or_default();
            }
            _ => return true,
        }
    }
    // Not understood, so the costlier of the two: the decoder is more forgiving than this walk.
    true
}

/// Shrinks in two steps: a cheap average that looks at each pixel once, down to twice the size, then a filter
/// that keeps edges crisp. The filter alone would be slow on a large picture, the average alone is jagged near 1:1.
fn shrink(picture: &DynamicImage, max_side: u32) -> DynamicImage {
    let (width, height) = picture.dimensions();
    let (to_width, to_height) = fit(width, height, max_side);
    if (to_width, to_height) == (width, height) {
        return picture.clone();
    }
    let (half_way_width, half_way_height) = fit(width, height, max_side.saturating_mul(2));
    if width / 2 < half_way_width {
        return picture.resize_exact(to_width, to_height, FilterType::Lanczos3);
    }
    picture.thumbnail_exact(half_way_width, half_way_height).resize_exact(
        to_width,
        to_height,
        FilterType::Lanczos3,
    )
}

/// Eight bits a channel, with transparency only where the picture has it: what every viewer shows.
fn encode(picture: &DynamicImage) -> Result<Vec<u8>, ImageError> {
    let mut png = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut png, CompressionType::Default, RowFilter::Adaptive);
    if picture.color().has_alpha() {
        picture.to_rgba8().write_with_encoder(encoder)?;
    } else {
        picture.to_rgb8().write_with_encoder(encoder)?;
    }
    Ok(png)
}

#[cfg(test)]
mod tests {
    use image::codecs::jpeg::JpegEncoder;
    use image::{ImageBuffer, Rgb, Rgba};

    use super::*;

    const LAKE: &[u8] = include_bytes!("../assets/lake.jpg");

    /// Red in its left half, blue in its right one.
    fn two_halves(width: u32, height: u32) -> DynamicImage {
        ImageBuffer::from_fn(width, height, |x, _| {
            if x < width / 2 { Rgb([220_u8, 20, 20]) } else { Rgb([20, 20, 220]) }
        })
        .into()
    }

    fn png(picture: &DynamicImage) -> Vec<u8> {
        let mut bytes = Vec::new();
        picture.write_with_encoder(PngEncoder::new(&mut bytes)).expect("a picture in memory can be encoded");
        bytes
    }

    fn jpeg(picture: &DynamicImage) -> Vec<u8> {
        let mut bytes = Vec::new();
        picture.write_with_encoder(JpegEncoder::new(&mut bytes)).expect("a picture in memory can be encoded");
        bytes
    }

    /// The same JPEG with an EXIF segment that holds nothing but the orientation.
    fn with_orientation(jpeg: &[u8], orientation: u8) -> Vec<u8> {
        let exif: &[u8] = &[
            b'E',
            b'x',
            b'i',
            b'f',
            0,
            0,
            b'M',
            b'M',
            0,
            42,
            0,
            0,
            0,
            8, // big-endian TIFF, first directory at 8
            0,
            1,
            0x01,
            0x12,
            0,
            3,
            0,
            0,
            0,
            1,
            0,
            orientation,
            0,
            0, // one entry: tag 0x112, one short
            0,
            0,
            0,
            0,
        ];
        let length = u16::try_from(exif.len() + 2).expect("a short segment").to_be_bytes();
        [&jpeg[..2], &[0xff, 0xe1], &length, exif, &jpeg[2..]].concat()
    }

    fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
        let body = [kind.as_slice(), data].concat();
        let mut crc = u32::MAX;
        for byte in &body {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
            }
        }
        let length = u32::try_from(data.len()).expect("a short chunk").to_be_bytes();
        [length.as_slice(), &body, &(!crc).to_be_bytes()].concat()
    }

    /// A PNG of less than a hundred bytes whose header claims the given size.
    fn png_that_claims(width: u32, height: u32) -> Vec<u8> {
        let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 6, 0, 0, 0]].concat();
        let empty_stream = [0x78, 0x9c, 0x03, 0, 0, 0, 0, 1];
        [
            b"\x89PNG\r\n\x1a\n".as_slice(),
            &chunk(b"IHDR", &header),
            &chunk(b"IDAT", &empty_stream),
            &chunk(b"IEND", &[]),
        ]
        .concat()
    }

    fn decoded(png: &[u8]) -> DynamicImage {
        image::load_from_memory_with_format(png, ImageFormat::Png).expect("the result is a PNG")
    }

    fn message(result: Result<Vec<u8>, PictureError>) -> String {
        result.expect_err("this picture must be refused").to_string()
    }

    #[test]
    fn a_png_becomes_a_smaller_png_of_the_same_picture() {
        let small = decoded(&thumbnail(&png(&two_halves(800, 600)), 256).expect("a good PNG")).to_rgb8();
        assert_eq!(small.dimensions(), (256, 192));
        assert_eq!(small.get_pixel(20, 100), &Rgb([220, 20, 20]));
        assert_eq!(small.get_pixel(236, 100), &Rgb([20, 20, 220]));
    }

    #[test]
    fn a_jpeg_becomes_a_smaller_png_of_the_same_picture() {
        let small = decoded(&thumbnail(&jpeg(&two_halves(800, 600)), 256).expect("a good JPEG")).to_rgb8();
        assert_eq!(small.dimensions(), (256, 192));
        let [red, _, blue] = small.get_pixel(20, 100).0;
        assert!(red > 200 && blue < 50, "the left half stays red");
    }

    #[test]
    fn the_photograph_keeps_its_shape_and_many_of_its_colours() {
        let small = decoded(&thumbnail(LAKE, 256).expect("our own picture")).to_rgb8();
        assert_eq!(small.dimensions(), (256, 171));
        let colours: std::collections::HashSet<_> = small.pixels().collect();
        assert!(colours.len() > 10_000, "{} colours", colours.len());
    }

    #[test]
    fn no_size_leaves_the_box_vanishes_or_grows() {
        let sides = [1, 2, 3, 100, 255, 256, 257, 1000, 4321, MAX_SIDE, u32::MAX];
        for (width, height) in sides.iter().flat_map(|w| sides.iter().map(move |h| (*w, *h))) {
            let (to_width, to_height) = fit(width, height, 256);
            assert!((1..=256.min(width)).contains(&to_width), "{width}x{height} became {to_width} wide");
            assert!((1..=256.min(height)).contains(&to_height), "{width}x{height} became {to_height} high");
        }
    }

    #[test]
    fn the_aspect_is_kept_to_the_nearest_pixel() {
        assert_eq!(fit(1600, 1067, 256), (256, 171));
        assert_eq!(fit(1067, 1600, 256), (171, 256));
        assert_eq!(fit(4000, 10, 256), (256, 1));
    }

    #[test]
    fn a_picture_that_fits_is_not_enlarged() {
        let original = two_halves(40, 30);
        assert_eq!(decoded(&thumbnail(&png(&original), 256).expect("a good PNG")), original);
    }

    #[test]
    fn transparency_is_kept() {
        let glass: DynamicImage = ImageBuffer::from_pixel(600, 600, Rgba([10_u8, 200, 30, 77])).into();
        let small = decoded(&thumbnail(&png(&glass), 64).expect("a good PNG")).to_rgba8();
        assert_eq!(small.get_pixel(30, 30).0[3], 77);
    }

    #[test]
    fn sixteen_bits_a_channel_become_eight() {
        let deep: DynamicImage = ImageBuffer::from_pixel(600, 300, Rgb([40_000_u16, 0, 65_535])).into();
        assert_eq!(decoded(&thumbnail(&png(&deep), 64).expect("a good PNG")).color(), image::ColorType::Rgb8);
    }

    #[test]
    fn a_jpeg_that_lies_on_its_side_is_set_upright() {
        let turned = with_orientation(&jpeg(&two_halves(800, 400)), 6);
        let small = decoded(&thumbnail(&turned, 100).expect("a good JPEG")).to_rgb8();
        assert_eq!(small.dimensions(), (50, 100));
        let [red, _, blue] = small.get_pixel(25, 10).0;
        assert!(red > 200 && blue < 50, "turned clockwise, the left half is on top");
        assert_eq!(describe(&turned).expect("a good JPEG").orientation, 6);
    }

    #[test]
    fn a_description_names_format_size_and_colour() {
        let json = describe(LAKE).expect("our own picture").to_json();
        assert_eq!(json, r#"{"format":"jpeg","width":1600,"height":1067,"colour":"Rgb8","orientation":1}"#);
    }

    #[test]
    fn a_tiny_png_that_claims_to_be_huge_is_refused_by_its_header() {
        let bomb = png_that_claims(50_000, 50_000);
        assert!(bomb.len() < 100);
        assert_eq!(message(thumbnail(&bomb, 256)), "png: 50000x50000 pixels: a side may have at most 20000");
    }

    #[test]
    fn a_picture_of_lawful_sides_but_too_many_pixels_is_refused_by_its_header() {
        let refused = message(thumbnail(&png_that_claims(20_000, 20_000), 256));
        assert_eq!(refused, "png: 20000x20000 pixels need about 1525 MiB to decode: at most 72 MiB are used");
    }

    #[test]
    fn the_largest_picture_is_judged_by_its_bytes_and_not_by_its_pixels() {
        // Four bytes a pixel: 4344 squared is just under 72 MiB, 4345 squared is over.
        assert!(message(thumbnail(&png_that_claims(4344, 4344), 256)).starts_with("png: decode: "));
        assert!(message(thumbnail(&png_that_claims(4345, 4345), 256)).contains("need about 72 MiB"));
    }

    #[test]
    fn a_bomb_can_still_be_described() {
        let description = describe(&png_that_claims(50_000, 50_000)).expect("the header alone is lawful");
        assert_eq!((description.width, description.height), (50_000, 50_000));
    }

    #[test]
    fn a_row_too_long_for_the_memory_is_refused_while_the_header_is_read() {
        let widest = png_that_claims(i32::MAX.unsigned_abs(), 1);
        let refused = describe(&widest).expect_err("a row of 8 GiB").to_string();
        assert!(refused.starts_with("png: read the header: "), "{refused}");
    }

    #[test]
    fn a_jpeg_that_is_not_baseline_is_counted_with_its_coefficients() {
        let mut progressive = jpeg(&two_halves(64, 64));
        assert!(!in_many_scans(&progressive));
        let frame = progressive.windows(2).position(|pair| pair == [0xff, 0xc0]).expect("a baseline JPEG");
        progressive[frame + 1] = 0xc2;
        assert!(in_many_scans(&progressive));
        assert!(
            in_many_scans(&[0xff, 0xd8, 0xff, 0xe0, 0xff, 0xff]),
            "what is not understood is the costlier one"
        );
    }

    #[test]
    fn what_is_no_picture_is_an_error_that_says_what_came() {
        assert_eq!(message(thumbnail(b"", 256)), "no picture: the payload is empty");
        assert_eq!(
            message(thumbnail(b"hello", 256)),
            "not a picture in a known format: the 5 bytes start with [68 65 6c 6c 6f]; png and jpeg are decoded"
        );
        assert_eq!(
            message(thumbnail(b"GIF89a......", 256)),
            "the picture is gif; only png and jpeg are decoded"
        );
    }

    #[test]
    fn a_picture_cut_short_is_an_error_that_names_its_format() {
        let whole = png(&two_halves(200, 200));
        for length in [8, 20, 40, whole.len() / 2] {
            assert!(message(thumbnail(&whole[..length], 256)).starts_with("png: "), "cut at {length}");
        }
        assert!(message(thumbnail(&LAKE[..200], 256)).starts_with("jpeg: "));
    }

    #[test]
    fn no_damaged_byte_makes_the_decoder_panic_or_grow_the_result() {
        for original in [png(&two_halves(60, 40)), jpeg(&two_halves(60, 40))] {
            for place in 0..original.len() {
                let mut damaged = original.clone();
                damaged[place] ^= 0x5a;
                if let Ok(small) = thumbnail(&damaged, 32) {
                    let (width, height) = decoded(&small).dimensions();
                    assert!(width <= 32 && height <= 32, "byte {place}");
                }
            }
        }
    }
}
