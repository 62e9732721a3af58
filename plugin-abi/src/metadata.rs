//! A plugin's metadata: written into a section of the library at compile time, read without running it.
//!
//! The writer runs in the vendor's compiler; the reader in the host, on bytes that nobody vouches for.
//! Owns the section's format and every bound on it, for both sides.
//! Never trusts a length, allocates more than the section's own size, or panics on what it reads.
//!
//! The section: the magic, a `u32` of its whole length, then fields of `u16` tag, `u32` length and that many
//! bytes. All numbers are little-endian. A reader skips tags that it does not know.

use std::fmt;

use crate::binding;

/// The version of the contract itself. It changes when a plugin built before can no longer be run.
pub const ABI_VERSION: u32 = 1;

// The binding compares this package's version at load. A scan must find the same without loading, by ABI_VERSION.
const _: () = assert!(
    matches!(env!("CARGO_PKG_VERSION_MAJOR").as_bytes(), b"0")
        && matches!(env!("CARGO_PKG_VERSION_MINOR").as_bytes(), b"1"),
    "plugins built before this version no longer load: raise ABI_VERSION, then update the numbers here"
);

/// The ELF section that holds a plugin's metadata.
pub const SECTION_NAME: &str = ".plugin_abi";

/// A section longer than this is refused.
pub const MAX_SECTION_BYTES: usize = 64 * 1024;

const MAGIC: [u8; 8] = *b"PLGABI\0\x01";
const HEADER_BYTES: usize = MAGIC.len() + 4;
const FIELD_HEADER_BYTES: usize = 2 + 4;

const MAX_ID_BYTES: usize = 64;
const MAX_VERSION_BYTES: usize = 64;
const MAX_DESCRIPTION_BYTES: usize = 1024;
const MAX_PERMISSION_BYTES: usize = 512;
const MAX_PERMISSIONS: usize = 64;
const MAX_NAME_BYTES: usize = 64;
const MAX_TYPES: usize = 64;

const TAG_ID: u16 = 1;
const TAG_VERSION: u16 = 2;
const TAG_DESCRIPTION: u16 = 3;
const TAG_PERMISSION: u16 = 4;
const TAG_ABI_VERSION: u16 = 5;
const TAG_BINDING: u16 = 6;
const TAG_TYPE: u16 = 7;

/// What a plugin says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PluginMetadata {
    /// 1 to 64 of `a-z`, `0-9`, `.`, `_`, `-`, beginning with a letter or digit.
    pub id: String,
    /// The plugin's version, as its vendor writes it.
    pub version: String,
    /// What the plugin does, for a person to read. May have several lines.
    pub description: String,
    /// The permissions it wants, unparsed, such as `file-read:/etc/hosts`.
    pub permissions: Vec<String>,
    /// What the plugin was built against.
    pub abi: AbiFingerprint,
}

/// What both sides of the boundary must agree on, small enough to be compared before a library is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AbiFingerprint {
    /// [`ABI_VERSION`] of the contract.
    pub abi_version: u32,
    /// The library that carries the boundary, and its version, such as `abi_stable 0.11`.
    pub binding: String,
    /// The types that cross the boundary.
    pub types: Vec<BoundaryType>,
}

/// One type that crosses the boundary.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BoundaryType {
    /// What the contract calls it.
    pub name: String,
    /// Its size in bytes.
    pub size_bytes: u32,
    /// Its alignment in bytes.
    pub align_bytes: u32,
}

impl fmt::Display for BoundaryType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes aligned to {}", self.size_bytes, self.align_bytes)
    }
}

impl AbiFingerprint {
    /// The fingerprint of this build.
    pub fn current() -> Self {
        Self {
            abi_version: ABI_VERSION,
            binding: binding::NAME_AND_VERSION.to_owned(),
            types: binding::BOUNDARY
                .iter()
                .map(|shape| BoundaryType {
                    name: shape.name.to_owned(),
                    size_bytes: shape.size_bytes,
                    align_bytes: shape.align_bytes,
                })
                .collect(),
        }
    }

    /// In what `other` differs from `self`, the expected one: at most three lines. `None` if in nothing.
    pub fn difference(&self, other: &Self) -> Option<String> {
        const MAX_LINES: usize = 3;
        let mut lines = Vec::new();
        if self.abi_version != other.abi_version {
            lines.push(format!(
                "contract version: expected {}, found {}",
                self.abi_version, other.abi_version
            ));
        }
        if self.binding != other.binding {
            lines.push(format!("binding: expected {}, found {}", self.binding, other.binding));
        }
        for expected in &self.types {
            match other.types.iter().find(|found| found.name == expected.name) {
                Some(found) if found == expected => {}
                Some(found) => lines.push(format!("{}: expected {expected}, found {found}", expected.name)),
                None => lines.push(format!("{}: expected {expected}, found none", expected.name)),
            }
        }
        for found in &other.types {
            if !self.types.iter().any(|expected| expected.name == found.name) {
                lines.push(format!("{}: not expected, found {found}", found.name));
            }
        }
        if lines.len() > MAX_LINES {
            let more = lines.len() - (MAX_LINES - 1);
            lines.truncate(MAX_LINES - 1);
            lines.push(format!("and {more} more differences"));
        }
        if lines.is_empty() { None } else { Some(lines.join("\n")) }
    }
}

/// Why a metadata section could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// The section is larger than any that the export macro writes.
    #[error("the metadata section has {found_bytes} bytes, more than the {max_bytes} allowed")]
    TooLarge {
        /// Its size.
        found_bytes: usize,
        /// [`MAX_SECTION_BYTES`].
        max_bytes: usize,
    },
    /// It does not begin like a metadata section of this format.
    #[error("the metadata section does not begin with the magic of format 1")]
    BadMagic,
    /// It ends in the middle of something, or says that it is longer than it is.
    #[error("the metadata section is cut short at byte {offset}")]
    Truncated {
        /// Where the reader wanted more.
        offset: usize,
    },
    /// Something stands behind its end: two libraries' sections in one, for example.
    #[error("{extra_bytes} bytes follow the end of the metadata")]
    TrailingBytes {
        /// How many.
        extra_bytes: usize,
    },
    /// A field is there twice.
    #[error("the metadata has more than one {field}")]
    Duplicate {
        /// Which field.
        field: &'static str,
    },
    /// A field is not there.
    #[error("the metadata has no {field}")]
    Missing {
        /// Which field.
        field: &'static str,
    },
    /// There are more of a repeated field than allowed.
    #[error("the metadata has more than {max} of {field}")]
    TooMany {
        /// Which field.
        field: &'static str,
        /// How many are allowed.
        max: usize,
    },
    /// A field has the wrong length.
    #[error("the metadata's {field} has {found_bytes} bytes, outside {min_bytes} to {max_bytes}")]
    BadLength {
        /// Which field.
        field: &'static str,
        /// Its length.
        found_bytes: usize,
        /// The least allowed.
        min_bytes: usize,
        /// The most allowed.
        max_bytes: usize,
    },
    /// A field has bytes that are not UTF-8, or control characters.
    #[error("the metadata's {field} is not plain text")]
    NotText {
        /// Which field.
        field: &'static str,
    },
    /// The id has other characters than an id may have.
    #[error("the metadata's id is not made of a-z, 0-9, '.', '_', '-', beginning with a letter or digit")]
    BadId,
}

/// Reads the contents of a metadata section.
///
/// # Errors
/// See [`MetadataError`]. Never panics, whatever the bytes.
pub fn decode(section: &[u8]) -> Result<PluginMetadata, MetadataError> {
    if section.len() > MAX_SECTION_BYTES {
        return Err(MetadataError::TooLarge { found_bytes: section.len(), max_bytes: MAX_SECTION_BYTES });
    }
    let mut reader = Reader { rest: section, offset: 0 };
    if reader.take(MAGIC.len()).map_err(|_| MetadataError::BadMagic)? != MAGIC {
        return Err(MetadataError::BadMagic);
    }
    let total = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
    match section.len().checked_sub(total) {
        Some(0) => {}
        Some(extra_bytes) => return Err(MetadataError::TrailingBytes { extra_bytes }),
        None => return Err(MetadataError::Truncated { offset: section.len() }),
    }

    let (mut id, mut version, mut description) = (None, None, None);
    let (mut abi_version, mut binding) = (None, None);
    let (mut permissions, mut types) = (Vec::new(), Vec::new());
    while !reader.rest.is_empty() {
        let tag = reader.u16()?;
        let length = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
        let mut field = Reader { offset: reader.offset, rest: reader.take(length)? };
        match tag {
            TAG_ID => {
                let bytes = field.all("id", 1, MAX_ID_BYTES)?;
                if !is_id(bytes) {
                    return Err(MetadataError::BadId);
                }
                once(&mut id, "id", text(bytes, "id", false)?)?;
            }
            TAG_VERSION => {
                let bytes = field.all("version", 1, MAX_VERSION_BYTES)?;
                once(&mut version, "version", text(bytes, "version", false)?)?;
            }
            TAG_DESCRIPTION => {
                let bytes = field.all("description", 0, MAX_DESCRIPTION_BYTES)?;
                once(&mut description, "description", text(bytes, "description", true)?)?;
            }
            TAG_PERMISSION => {
                let bytes = field.all("permission", 1, MAX_PERMISSION_BYTES)?;
                let permission = text(bytes, "permission", false)?;
                push(&mut permissions, "permission", MAX_PERMISSIONS, permission)?;
            }
            TAG_ABI_VERSION => {
                field.exactly("abi version", 4)?;
                once(&mut abi_version, "abi version", field.u32()?)?;
            }
            TAG_BINDING => {
                let bytes = field.all("binding", 1, MAX_NAME_BYTES)?;
                once(&mut binding, "binding", text(bytes, "binding", false)?)?;
            }
            TAG_TYPE => {
                let (size_bytes, align_bytes) = (field.u32()?, field.u32()?);
                let bytes = field.all("type name", 1, MAX_NAME_BYTES)?;
                let name = text(bytes, "type name", false)?;
                push(&mut types, "type", MAX_TYPES, BoundaryType { name, size_bytes, align_bytes })?;
            }
            // A later version's. What must not be skipped comes with another magic.
            _ => {}
        }
    }
    let missing = |field| MetadataError::Missing { field };
    Ok(PluginMetadata {
        id: id.ok_or(missing("id"))?,
        version: version.ok_or(missing("version"))?,
        description: description.ok_or(missing("description"))?,
        permissions,
        abi: AbiFingerprint {
            abi_version: abi_version.ok_or(missing("abi version"))?,
            binding: binding.ok_or(missing("binding"))?,
            types,
        },
    })
}

fn once<T>(slot: &mut Option<T>, field: &'static str, value: T) -> Result<(), MetadataError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(MetadataError::Duplicate { field }),
    }
}

fn push<T>(list: &mut Vec<T>, field: &'static str, max: usize, value: T) -> Result<(), MetadataError> {
    if list.len() >= max {
        return Err(MetadataError::TooMany { field, max });
    }
    list.push(value);
    Ok(())
}

fn text(bytes: &[u8], field: &'static str, multiline: bool) -> Result<String, MetadataError> {
    match std::str::from_utf8(bytes) {
        Ok(text) if is_plain(bytes, multiline) => Ok(text.to_owned()),
        _ => Err(MetadataError::NotText { field }),
    }
}

/// Reads from the front of untrusted bytes.
struct Reader<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], MetadataError> {
        let (front, rest) =
            self.rest.split_at_checked(count).ok_or(MetadataError::Truncated { offset: self.offset })?;
        self.rest = rest;
        self.offset = self.offset.saturating_add(count);
        Ok(front)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], MetadataError> {
        let truncated = MetadataError::Truncated { offset: self.offset };
        self.take(N)?.try_into().map_err(|_| truncated)
    }

    fn u16(&mut self) -> Result<u16, MetadataError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, MetadataError> {
        self.array().map(u32::from_le_bytes)
    }

    /// All that is left, if that is `min_bytes` to `max_bytes` long.
    fn all(
        &mut self,
        field: &'static str,
        min_bytes: usize,
        max_bytes: usize,
    ) -> Result<&'a [u8], MetadataError> {
        let found_bytes = self.rest.len();
        if found_bytes < min_bytes || found_bytes > max_bytes {
            return Err(MetadataError::BadLength { field, found_bytes, min_bytes, max_bytes });
        }
        self.take(found_bytes)
    }

    fn exactly(&self, field: &'static str, bytes: usize) -> Result<(), MetadataError> {
        let found_bytes = self.rest.len();
        if found_bytes != bytes {
            return Err(MetadataError::BadLength { field, found_bytes, min_bytes: bytes, max_bytes: bytes });
        }
        Ok(())
    }
}

/// What [`export_plugin!`](crate::export_plugin) was told, before it is checked.
#[doc(hidden)]
pub struct Declaration<'a> {
    pub id: &'a str,
    pub version: &'a str,
    pub description: &'a str,
    pub permissions: &'a [&'a str],
}

/// One entry of this build's fingerprint, computed where the types are named.
pub(crate) struct TypeShape {
    pub(crate) name: &'static str,
    pub(crate) size_bytes: u32,
    pub(crate) align_bytes: u32,
}

impl TypeShape {
    pub(crate) const fn of<T>(name: &'static str) -> Self {
        let (size, align) = (size_of::<T>(), align_of::<T>());
        assert!(size <= u32::MAX as usize && align <= u32::MAX as usize);
        Self { name, size_bytes: size as u32, align_bytes: align as u32 }
    }
}

/// How long the section of `declaration` is. A declaration that [`decode`] would refuse does not compile.
#[doc(hidden)]
pub const fn section_len(declaration: &Declaration<'_>) -> usize {
    let id = declaration.id.as_bytes();
    assert!(
        !id.is_empty() && id.len() <= MAX_ID_BYTES && is_id(id),
        "a plugin's id must be 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit; \
         without `id: \"..\"` it is the package's name"
    );
    let version = declaration.version.as_bytes();
    assert!(
        !version.is_empty() && version.len() <= MAX_VERSION_BYTES && is_plain(version, false),
        "a plugin's version must be 1 to 64 bytes without control characters"
    );
    let description = declaration.description.as_bytes();
    assert!(
        description.len() <= MAX_DESCRIPTION_BYTES && is_plain(description, true),
        "a plugin's description must be at most 1024 bytes, without control characters other than tab and newline"
    );
    assert!(declaration.permissions.len() <= MAX_PERMISSIONS, "a plugin can ask for at most 64 permissions");
    let mut len = HEADER_BYTES + 5 * FIELD_HEADER_BYTES;
    len += id.len() + version.len() + description.len() + 4 + binding::NAME_AND_VERSION.len();
    let mut i = 0;
    while i < declaration.permissions.len() {
        let permission = declaration.permissions[i].as_bytes();
        assert!(
            !permission.is_empty() && permission.len() <= MAX_PERMISSION_BYTES && is_plain(permission, false),
            "a permission must be 1 to 512 bytes without control characters"
        );
        len += FIELD_HEADER_BYTES + permission.len();
        i += 1;
    }
    i = 0;
    while i < binding::BOUNDARY.len() {
        len += FIELD_HEADER_BYTES + 4 + 4 + binding::BOUNDARY[i].name.len();
        i += 1;
    }
    assert!(len <= MAX_SECTION_BYTES, "a plugin's metadata must be at most 64 KiB in all");
    len
}

/// The section of `declaration`; `N` is what [`section_len`] says.
#[doc(hidden)]
pub const fn section<const N: usize>(declaration: &Declaration<'_>) -> [u8; N] {
    assert!(N == section_len(declaration) && N <= u32::MAX as usize);
    let mut writer = Writer { bytes: [0; N], len: 0 };
    writer.put(&MAGIC);
    writer.put(&(N as u32).to_le_bytes());
    writer.field(TAG_ID, declaration.id.as_bytes());
    writer.field(TAG_VERSION, declaration.version.as_bytes());
    writer.field(TAG_DESCRIPTION, declaration.description.as_bytes());
    writer.field(TAG_ABI_VERSION, &ABI_VERSION.to_le_bytes());
    writer.field(TAG_BINDING, binding::NAME_AND_VERSION.as_bytes());
    let mut i = 0;
    while i < declaration.permissions.len() {
        writer.field(TAG_PERMISSION, declaration.permissions[i].as_bytes());
        i += 1;
    }
    i = 0;
    while i < binding::BOUNDARY.len() {
        let shape = &binding::BOUNDARY[i];
        writer.field_header(TAG_TYPE, 4 + 4 + shape.name.len());
        writer.put(&shape.size_bytes.to_le_bytes());
        writer.put(&shape.align_bytes.to_le_bytes());
        writer.put(shape.name.as_bytes());
        i += 1;
    }
    assert!(writer.len == N);
    writer.bytes
}

/// Writes at compile time, where a mistake in the bookkeeping is a compile error.
struct Writer<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Writer<N> {
    const fn put(&mut self, bytes: &[u8]) {
        let mut i = 0;
        while i < bytes.len() {
            self.bytes[self.len] = bytes[i];
            self.len += 1;
            i += 1;
        }
    }

    const fn field_header(&mut self, tag: u16, len: usize) {
        self.put(&tag.to_le_bytes());
        self.put(&(len as u32).to_le_bytes());
    }

    const fn field(&mut self, tag: u16, bytes: &[u8]) {
        self.field_header(tag, bytes.len());
        self.put(bytes);
    }
}

const fn is_id(mut bytes: &[u8]) -> bool {
    // A leading dot or dash would make an id that is a hidden file, a folder's parent or a program's option.
    if let [b'.' | b'_' | b'-', ..] = bytes {
        return false;
    }
    while let [byte, rest @ ..] = bytes {
        if !matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-') {
            return false;
        }
        bytes = rest;
    }
    true
}

/// Whether UTF-8 text has no control characters, C1 ones included; newline and tab are allowed if `multiline`.
const fn is_plain(mut bytes: &[u8], multiline: bool) -> bool {
    while let [byte, rest @ ..] = bytes {
        match (*byte, rest) {
            (b'\n' | b'\t', _) if multiline => {}
            (0x00..=0x1f | 0x7f, _) => return false,
            (0xc2, [0x80..=0x9f, ..]) => return false,
            _ => {}
        }
        bytes = rest;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Declaration<'static> = Declaration {
        id: "image-thumbnail",
        version: "1.2.3-rc.1",
        description: "makes pictures small\nand says é",
        permissions: &["file-read:/etc/hosts", "ui"],
    };
    static SECTION: [u8; section_len(&FULL)] = section(&FULL);

    /// The section with its length put right, which a mutation of the length would otherwise hide behind.
    fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
        let len = u32::try_from(bytes.len()).expect("small");
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes
    }

    fn with_field(tag: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = SECTION.to_vec();
        bytes.extend(tag.to_le_bytes());
        bytes.extend(u32::try_from(value.len()).expect("small").to_le_bytes());
        bytes.extend(value);
        sealed(bytes)
    }

    fn without(tag: u16) -> Vec<u8> {
        let mut bytes = SECTION[..HEADER_BYTES].to_vec();
        let mut rest = &SECTION[HEADER_BYTES..];
        while !rest.is_empty() {
            let len = FIELD_HEADER_BYTES + u32::from_le_bytes([rest[2], rest[3], rest[4], rest[5]]) as usize;
            if u16::from_le_bytes([rest[0], rest[1]]) != tag {
                bytes.extend(&rest[..len]);
            }
            rest = &rest[len..];
        }
        sealed(bytes)
    }

    #[test]
    fn what_the_macro_writes_is_what_the_reader_reads() {
        let metadata = decode(&SECTION).expect("own section");
        assert_eq!(metadata.id, FULL.id);
        assert_eq!(metadata.version, FULL.version);
        assert_eq!(metadata.description, FULL.description);
        assert_eq!(metadata.permissions, FULL.permissions);
        assert_eq!(metadata.abi, AbiFingerprint::current());
    }

    #[test]
    fn a_section_cut_at_any_length_is_an_error() {
        for len in 0..SECTION.len() {
            assert!(decode(&SECTION[..len]).is_err(), "cut at {len}");
            if len >= HEADER_BYTES {
                // The same with a length that fits: some cuts fall between fields, and then it may be read.
                let _ = decode(&sealed(SECTION[..len].to_vec()));
            }
        }
    }

    #[test]
    fn no_mutation_makes_the_reader_panic() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % below as u64).expect("below a usize")
        };
        for _ in 0..50_000 {
            let mut bytes = SECTION.to_vec();
            for _ in 0..=random(6) {
                let at = random(bytes.len());
                match random(4) {
                    0 => bytes[at] = u8::try_from(random(256)).expect("below 256"),
                    1 => bytes[at] ^= 1 << random(8),
                    2 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, [0x00, 0x7f, 0x80, 0xff][random(4)]),
                }
            }
            let bytes = if random(2) == 0 { sealed(bytes) } else { bytes };
            if let Ok(metadata) = decode(&bytes) {
                assert!(is_id(metadata.id.as_bytes()));
            }
        }
    }

    #[test]
    fn each_fault_has_its_own_error() {
        use MetadataError as E;
        let mut magic = SECTION.to_vec();
        magic[7] = 2;
        let mut trailing = SECTION.to_vec();
        trailing.push(0);
        let cases = [
            ("nothing", Vec::new(), E::BadMagic),
            ("another format", magic, E::BadMagic),
            ("trailing", trailing, E::TrailingBytes { extra_bytes: 1 }),
            (
                "large",
                vec![0; MAX_SECTION_BYTES + 1],
                E::TooLarge { found_bytes: MAX_SECTION_BYTES + 1, max_bytes: MAX_SECTION_BYTES },
            ),
            ("two ids", with_field(TAG_ID, b"other"), E::Duplicate { field: "id" }),
            ("id", with_field(TAG_ID, b"Hello"), E::BadId),
            ("parent folder", with_field(TAG_ID, b".."), E::BadId),
            (
                "long id",
                with_field(TAG_ID, &[b'a'; 65]),
                E::BadLength { field: "id", found_bytes: 65, min_bytes: 1, max_bytes: 64 },
            ),
            ("utf-8", with_field(TAG_PERMISSION, b"\xff"), E::NotText { field: "permission" }),
            ("newline", with_field(TAG_PERMISSION, b"a\nb"), E::NotText { field: "permission" }),
            (
                "c1 control",
                with_field(TAG_PERMISSION, "a\u{9b}b".as_bytes()),
                E::NotText { field: "permission" },
            ),
            (
                "short number",
                with_field(TAG_ABI_VERSION, b"abc"),
                E::BadLength { field: "abi version", found_bytes: 3, min_bytes: 4, max_bytes: 4 },
            ),
            ("no id", without(TAG_ID), E::Missing { field: "id" }),
            ("no binding", without(TAG_BINDING), E::Missing { field: "binding" }),
        ];
        for (name, bytes, error) in cases {
            assert_eq!(decode(&bytes), Err(error), "{name}");
        }
    }

    #[test]
    fn a_field_of_a_later_version_is_skipped() {
        assert_eq!(decode(&with_field(0x7fff, b"\xff\x00anything")), decode(&SECTION));
    }

    #[test]
    fn too_many_permissions_are_an_error() {
        let mut bytes = SECTION.to_vec();
        for _ in 0..MAX_PERMISSIONS {
            bytes.extend(TAG_PERMISSION.to_le_bytes());
            bytes.extend(2u32.to_le_bytes());
            bytes.extend(b"ui");
        }
        let error = MetadataError::TooMany { field: "permission", max: MAX_PERMISSIONS };
        assert_eq!(decode(&sealed(bytes)), Err(error));
    }

    #[test]
    fn a_fingerprint_says_which_entry_differs() {
        let ours = AbiFingerprint::current();
        assert_eq!(ours.difference(&ours), None);

        let mut theirs = ours.clone();
        theirs.types[0].size_bytes += 8;
        let text = ours.difference(&theirs).expect("a size differs");
        assert!(text.starts_with(&ours.types[0].name), "{text}");
        assert_eq!(text.lines().count(), 1);

        theirs.abi_version += 1;
        theirs.binding.push('9');
        theirs.types.remove(1);
        let text = ours.difference(&theirs).expect("four things differ");
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.ends_with("and 2 more differences"), "{text}");
    }
}
