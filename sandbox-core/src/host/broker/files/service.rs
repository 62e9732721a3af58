//! Files that a plugin reads and writes by calling services: it holds nothing, so that nothing has to be taken back.
//!
//! Runs in the host, where services run: on the thread that called the plugin, or on a worker for services. Each call is
//! judged by the grants of that moment, as an open is.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::errno::Errno;
use plugin_abi::files::{LEN, READ, ReadPart, WRITE, WritePart};
use rustix::fs::{FileType, OFlags};

use super::super::Brokered;
use super::super::requests::{Refused, worded};
use super::named::Named;
use super::tree::{Judged, Right, Tree};
use crate::host::decider::{self, AccessRequest, Ruling};
use crate::host::events::{EventKind, escape};
use crate::host::instance::Instance;
use crate::shared::policy::PluginPermission;
use crate::shared::wire::control::{Bytes, WireServiceError};

type Reply = Result<Bytes, WireServiceError>;

/// The longest path, without a NUL: PATH_MAX of the kernel.
const MOST_PATH_BYTES: usize = 4095;

fn failed(message: impl Into<String>) -> WireServiceError {
    WireServiceError::Failed { message: message.into() }
}

impl Instance {
    /// Serves `file.read`, `file.write` or `file.len`.
    pub(in crate::host) fn serve_file(&self, service: &str, payload: &[u8]) -> Reply {
        let brokered = self.brokered().ok_or_else(|| failed("this plugin has no broker"))?;
        let malformed = || failed(format!("no payload of {service}"));
        match service {
            READ => {
                let ReadPart { path, offset, len } = ReadPart::decode(payload).ok_or_else(malformed)?;
                if u64::from(len) > self.max_message_bytes {
                    let max = self.max_message_bytes;
                    return Err(failed(format!("{len} bytes, where at most {max} are allowed")));
                }
                self.with_file(&brokered, service, path, Right::Read, |file| read(file, offset, len))
            }
            WRITE => {
                let WritePart { path, offset, bytes } = WritePart::decode(payload).ok_or_else(malformed)?;
                let end = offset.saturating_add(bytes.len() as u64);
                if self.subject.limits().max_file_size_mb.is_some_and(|mb| end > mb << 20) {
                    return Err(failed(Errno::EFBIG.to_string()));
                }
                self.with_file(&brokered, service, path, Right::Write, |file| {
                    file.write_all_at(bytes, offset).map(|()| Vec::new())
                })
            }
            LEN => self.with_file(&brokered, service, payload, Right::Read, |file| {
                file.metadata().map(|of| of.len().to_le_bytes().to_vec())
            }),
            _ => Err(malformed()),
        }
    }

    /// Judges the file at `path`, opens it, and does `work`; somebody may be asked about it in between.
    fn with_file(
        &self,
        brokered: &Brokered,
        service: &str,
        path: &[u8],
        right: Right,
        work: impl FnOnce(&File) -> std::io::Result<Vec<u8>>,
    ) -> Reply {
        if path.first() != Some(&b'/') || path.len() > MOST_PATH_BYTES || path.contains(&0) {
            return Err(failed("no absolute path"));
        }
        let named = Named::absolute(path.to_vec());
        let (permission, action) = match right {
            Right::Write => ("file-write", "write"),
            _ => ("file-read", "read"),
        };
        let tell = |resolved: Option<String>, granted, rule: &str| {
            self.subject.publish_decision(Some(permission), granted, || EventKind::Access {
                permission,
                action,
                object: escape(path),
                resolved,
                granted,
                rule: rule.to_owned(),
            });
        };
        let mut allowed: Option<(PluginPermission, Ruling)> = None;
        loop {
            // Until the work is done: a revoke waits for it.
            let act = brokered.under_way.begin();
            let mut grants = self.subject.policy().grants();
            if let Some((once, _)) = &allowed {
                Arc::make_mut(&mut grants).grant(once.clone(), once.scope().cloned());
            }
            let asks = self.subject.has_decider() && allowed.is_none();
            let outside = Tree {
                root: brokered.trees.read.as_fd(),
                grants: &grants,
                links: self.subject.links(),
                asks,
                learns: false,
                scratch: false,
            };
            let tree = brokered.tree_at(path, right, outside);
            let opened = tree.judge(&named, right).and_then(|judged| Ok((open(&judged, right)?, judged)));
            let refused = match opened {
                Ok((file, judged)) => {
                    let resolved = escape(judged.resolved.as_os_str().as_encoded_bytes());
                    tell(Some(resolved), true, &worded(&judged.rule, allowed.as_slice()));
                    return work(&file).map(Bytes).map_err(|error| failed(error.to_string()));
                }
                Err(refused) => refused,
            };
            drop(act);
            let Refused { errno, resolved, rule, wanted, allowed: is_allowed } = refused;
            if let Some(wanted) = wanted.filter(|_| asks) {
                let wish = AccessRequest {
                    plugin: self.subject.id().clone(),
                    permission: *wanted,
                    action,
                    object: escape(path),
                    resolved: resolved.clone(),
                };
                let ruling = decider::rule(self, &wish);
                if ruling != Ruling::Deny {
                    allowed = Some((wish.permission, ruling));
                    continue;
                }
            }
            tell(resolved, is_allowed, &worded(&rule, allowed.as_slice()));
            return Err(match errno {
                Errno::EACCES => WireServiceError::PermissionDenied {
                    // The path as the plugin has it: where that leads is not its to know.
                    permission: format!("{permission}:{}", escape(path)),
                    service: service.to_owned(),
                },
                errno => failed(errno.to_string()),
            });
        }
    }
}

fn open(judged: &Judged, right: Right) -> Result<File, Refused> {
    let refuse = |errno, rule: &str| Err(Refused::new(errno, Some(&judged.resolved), rule));
    if judged.kind() != FileType::RegularFile {
        return refuse(Errno::EISDIR, "only ordinary files are read and written");
    }
    if right == Right::Write && judged.runs_with_rights() {
        return refuse(Errno::EACCES, "what runs with rights of its own is not written");
    }
    let how = if right == Right::Write { OFlags::WRONLY } else { OFlags::RDONLY };
    match judged.open(how) {
        Ok(file) => Ok(file.into()),
        Err(errno) => refuse(errno, "the host's user may not"),
    }
}

/// As much as there is, up to `len` bytes.
fn read(file: &File, offset: u64, len: u32) -> std::io::Result<Vec<u8>> {
    // As long as the file says that it is; what it says is no more than where to begin.
    let rest = file.metadata()?.len().saturating_sub(offset).min(u64::from(len));
    let mut bytes = vec![0; usize::try_from(rest).unwrap_or_default()];
    let mut got = 0;
    while let Some(rest) = bytes.get_mut(got..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset.saturating_add(got as u64)) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(got);
    Ok(bytes)
}
