//! Files from directories, without the application: mounts, each a directory under a prefix of the path.
//!
//! The path of one request: `path` decodes it to a name; `cache` knows what was found under that name within the last
//! second, or `load` looks (in the turn what the kernel has in memory, in a thread the rest); `coding` chooses among the
//! file and its encoded copies; `conditional` and `ranges` decide how much of it is sent; `resource` has the header lines
//! ready. A small file's bytes are copied into the output, a large one's are sent by the kernel.
//!
//! Changes are noticed by looking again, at most once a second for each name that is asked for. inotify would tell sooner,
//! but wants a watch for each directory, overflows, and is silent on network file systems.

mod cache;
mod coding;
mod conditional;
mod fields;
mod listing;
mod load;
mod media_type;
mod path;
mod ranges;
mod resource;
mod root;
#[cfg(test)]
mod testing;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cache::{Cache, Limits, Weight};
use conditional::Verdict;
use fields::Fields;
use load::{Failure, Finished, Job, Loaded, Loader, Rules, Site};
use path::PathError;
use ranges::Ranges;
use resource::{Content, Representation, Resource};
use root::{Confinement, Effort, Root};

use super::http::{HeaderLines, NativeAnswer, NativeBody, NativePiece, NativeResponse, RequestView, Responder};
use crate::core::Token;
use crate::metrics::ReactorCounters;
use crate::protocol::http1::HttpError;

/// What was found under a name is believed for this long.
const BELIEVED: Duration = Duration::from_secs(1);
/// What an entry of the cache costs besides its file's bytes: names, header lines, tables.
const ENTRY_BYTES: usize = 1024;
const MAX_ENTRIES: usize = 65_536;

const MALFORMED: HttpError =
    page(400, "The path is not plainly a file's: it has dot segments, backslashes or bad encodings.");
const ABSENT: HttpError = page(404, "There is no such file.");
const DENIED: HttpError = page(403, "The server may not read this file.");
const METHOD: HttpError = page(405, "Files are read, by GET or HEAD.");
const MOVED: HttpError = page(301, "This is a directory: its address ends with a slash.");
const PRECONDITION: HttpError = page(412, "The file is not, or not any more, the one that the request is about.");
const UNSATISFIABLE: HttpError = page(416, "The file has no such bytes, or the ranges overlap, or they are too many.");
const BUSY: HttpError = page(503, "The server has as many files open as it may; try again soon.");
const UNREADABLE: HttpError = page(500, "The file cannot be read.");

const fn page(status: u16, reason: &'static str) -> HttpError {
    HttpError { status, reason }
}

#[derive(Clone, Debug)]
pub struct StaticSettings {
    pub mounts: Vec<MountSettings>,
    /// Of small files kept in memory, for each reactor.
    pub cache_bytes: usize,
    /// Descriptors of large files kept open, for each reactor.
    pub open_files: usize,
}

/// One directory under one prefix.
#[derive(Clone, Debug)]
pub struct MountSettings {
    /// Begins with a slash; the slash alone is every path.
    pub prefix: String,
    pub directory: PathBuf,
    /// A valid header value.
    pub cache_control: Option<String>,
    pub listing: bool,
    pub hidden: bool,
    /// What is not there is the application's to answer.
    pub falls_through: bool,
}

struct Mount {
    /// Without the final slash.
    prefix: Vec<u8>,
    falls_through: bool,
    site: Arc<Site>,
    /// When the directory itself was last looked at.
    checked: Instant,
}

impl Mount {
    fn open(settings: MountSettings) -> io::Result<Self> {
        let root = Root::open(&settings.directory)?;
        let prefix = settings.prefix.trim_end_matches('/').to_owned();
        let rules = Rules {
            prefix: prefix.clone(),
            cache_control: settings.cache_control,
            listing: settings.listing,
            hidden: settings.hidden,
        };
        Ok(Mount {
            prefix: prefix.into_bytes(),
            falls_through: settings.falls_through,
            site: Arc::new(Site { root, rules }),
            checked: Instant::now(),
        })
    }

    /// The part of `path` behind the prefix, if it is under it: empty, or from a slash on.
    #[inline]
    fn below<'a>(&self, path: &'a [u8]) -> Option<&'a [u8]> {
        path.strip_prefix(&self.prefix[..]).filter(|rest| matches!(rest.first(), None | Some(b'/')))
    }
}

/// Serves the files of its mounts, on one reactor.
pub struct StaticFiles {
    /// The longest prefix first.
    mounts: Vec<Mount>,
    cache: Cache<Loaded>,
    loader: Loader,
    /// Who waits for the loader, by mount and name.
    waiting: HashMap<(usize, Box<[u8]>), Vec<Token>>,
    /// What the loader found, and where, for those who are asked again just now.
    arrived: HashMap<Token, (usize, Arc<[u8]>, Loaded)>,
    scratch: Vec<u8>,
    next_boundary: u64,
    /// Names found in the cache, and not, since `tell` was last asked.
    hits: u64,
    misses: u64,
}

impl StaticFiles {
    /// The directories must be there.
    pub fn open(settings: StaticSettings) -> io::Result<Self> {
        let mut mounts = settings.mounts.into_iter().map(Mount::open).collect::<io::Result<Vec<_>>>()?;
        mounts.sort_by_key(|mount| std::cmp::Reverse(mount.prefix.len()));
        let limits = Limits { bytes: settings.cache_bytes, entries: MAX_ENTRIES, files: settings.open_files };
        Ok(StaticFiles {
            cache: Cache::new(mounts.len(), limits),
            mounts,
            loader: Loader::new()?,
            waiting: HashMap::new(),
            arrived: HashMap::new(),
            scratch: Vec::new(),
            next_boundary: RandomState::new().hash_one("boundary"),
            hits: 0,
            misses: 0,
        })
    }

    /// What the operator should know: that this kernel has no openat2, and what that changes.
    pub fn warning(&self) -> Option<&'static str> {
        let walks = |mount: &Mount| mount.site.root.confinement() == Confinement::Walk;
        self.mounts.iter().any(walks).then_some(
            "static files: this kernel has no openat2 (Linux 5.6), or something forbids it; symbolic links will not be \
             followed, not even those that stay inside the directory",
        )
    }

    /// What there is under a name. `None`: the loader is asked, and `take_answerable` will tell.
    fn look_up(&mut self, token: Token, mount: usize, name: &[u8], now: Instant) -> Option<Loaded> {
        if !self.arrived.is_empty()
            && let Some((at, its_name, loaded)) = self.arrived.remove(&token)
            && (at, &its_name[..]) == (mount, name)
        {
            return Some(loaded);
        }
        self.look_after_root(mount, now);
        let mut known = None;
        if let Some(entry) = self.cache.get(mount, name) {
            if now.saturating_duration_since(entry.checked) < BELIEVED {
                self.hits += 1;
                return Some(entry.value.clone());
            }
            known = match &entry.value {
                Loaded::File(resource) => Some(resource.clone()),
                _ => None,
            };
        }
        self.misses += 1;
        self.look_again(token, mount, name, known, now)
    }

    fn look_again(
        &mut self,
        token: Token,
        mount: usize,
        name: &[u8],
        known: Option<Arc<Resource>>,
        now: Instant,
    ) -> Option<Loaded> {
        let site = &self.mounts[mount].site;
        let loaded = match load::load(site, name, known.as_deref(), Effort::InMemory) {
            Ok(loaded) => loaded,
            Err(_) => match self.ask_loader(token, mount, name, known) {
                Ok(()) => return None,
                Err(job) => load::load(&job.site, name, job.known.as_deref(), Effort::Wait)
                    .unwrap_or(Loaded::Failed(Failure::Unreadable)),
            },
        };
        self.keep(mount, name, &loaded, now);
        Some(loaded)
    }

    /// Have the thread look, once for all who ask. Given back when it has too much to do: then the turn waits.
    fn ask_loader(&mut self, token: Token, mount: usize, name: &[u8], known: Option<Arc<Resource>>) -> Result<(), Job> {
        let key = (mount, Box::from(name));
        if let Some(tokens) = self.waiting.get_mut(&key) {
            tokens.push(token);
            return Ok(());
        }
        self.loader.submit(Job { mount, name: name.into(), site: self.mounts[mount].site.clone(), known })?;
        self.waiting.insert(key, vec![token]);
        Ok(())
    }

    fn keep(&mut self, mount: usize, name: &[u8], loaded: &Loaded, now: Instant) {
        match loaded {
            Loaded::File(resource) => self.cache.insert(mount, name, loaded.clone(), weight(name, resource), now),
            Loaded::Listing(listing) => {
                let weight = Weight { bytes: ENTRY_BYTES + name.len() + listing.page.len(), files: 0 };
                self.cache.insert(mount, name, loaded.clone(), weight, now);
            }
            _ => self.cache.remove(mount, name),
        }
    }

    /// Deployments replace whole directories: serve the one that is there now.
    fn look_after_root(&mut self, index: usize, now: Instant) {
        let mount = &mut self.mounts[index];
        if now.saturating_duration_since(mount.checked) < BELIEVED {
            return;
        }
        mount.checked = now;
        if let Some(root) = mount.site.root.replacement() {
            mount.site = Arc::new(Site { root, rules: mount.site.rules.clone() });
            self.cache.clear(index);
        }
    }

    fn answer(&mut self, token: Token, request: &RequestView<'_>, mount: usize, now: Instant) -> NativeAnswer {
        let (head, bytes) = (request.head, request.bytes);
        let is_head = match head.method.of(bytes) {
            b"GET" => false,
            b"HEAD" => true,
            _ => return NativeAnswer::Page { error: METHOD, lines: b"allow: GET, HEAD\r\n".to_vec() },
        };
        let path = head.path.of(bytes);
        let below = self.mounts[mount].below(path).unwrap_or_default();
        if below.is_empty() {
            return moved(path, head.query.of(bytes));
        }
        let fields = Fields::of(head.headers.iter().map(|(name, value)| (name.of(bytes), value.of(bytes))));
        let mut scratch = std::mem::take(&mut self.scratch);
        let loaded = match path::name_below(below, self.mounts[mount].site.rules.hidden, &mut scratch) {
            Ok(name) => self.look_up_for(token, mount, name, &fields, now),
            Err(PathError::Absent) => Some(Loaded::Absent),
            Err(PathError::Malformed) => return plain_page(MALFORMED),
        };
        self.scratch = scratch;
        match loaded {
            None => NativeAnswer::Later,
            Some(Loaded::File(resource)) => self.answer_file(chosen(&resource, &fields), &fields, is_head),
            Some(Loaded::Listing(listing)) => {
                let lines =
                    HeaderLines { shared_bytes: listing.lines.len(), shared: listing.lines.clone(), own: Vec::new() };
                let piece = NativePiece::Shared(listing.page.clone(), 0..listing.page.len());
                NativeAnswer::Response(NativeResponse { status: 200, lines, body: NativeBody::One(piece) })
            }
            Some(Loaded::Directory) => moved(path, head.query.of(bytes)),
            Some(Loaded::Absent) => plain_page(ABSENT),
            Some(Loaded::Failed(Failure::Denied)) => plain_page(DENIED),
            Some(Loaded::Failed(Failure::Busy)) => plain_page(BUSY),
            Some(Loaded::Failed(Failure::Unreadable)) => plain_page(UNREADABLE),
        }
    }

    /// The same, and not a file that has changed since: its length is about to be promised. What is sent from memory is
    /// whole as it is; a descriptor is asked, which is one system call of the several that a large file takes.
    fn look_up_for(
        &mut self,
        token: Token,
        mount: usize,
        name: &[u8],
        fields: &Fields<'_>,
        now: Instant,
    ) -> Option<Loaded> {
        match self.look_up(token, mount, name, now)? {
            Loaded::File(resource) if chosen(&resource, fields).has_changed() => {
                self.look_again(token, mount, name, None, now)
            }
            loaded => Some(loaded),
        }
    }

    fn answer_file(&mut self, representation: &Representation, fields: &Fields<'_>, is_head: bool) -> NativeAnswer {
        match conditional::evaluate(fields, representation.validators()) {
            Verdict::Send => {}
            Verdict::Failed => return plain_page(PRECONDITION),
            Verdict::NotModified => {
                let lines = representation.validator_lines();
                return NativeAnswer::Response(NativeResponse { status: 304, lines, body: NativeBody::Empty });
            }
        }
        // Ranges are defined for GET alone (RFC 9110 section 14.2).
        let range =
            fields.range.filter(|_| !is_head && conditional::range_is_current(fields, representation.validators()));
        let bytes = representation.bytes();
        match range.map_or(Ranges::Ignored, |value| ranges::select(value, bytes)) {
            Ranges::Ignored => {
                let body = NativeBody::One(representation.piece(0..bytes));
                NativeAnswer::Response(NativeResponse {
                    status: 200,
                    lines: representation.all_lines(Vec::new()),
                    body,
                })
            }
            Ranges::Unsatisfiable => {
                NativeAnswer::Page { error: UNSATISFIABLE, lines: format!("content-range: bytes */{bytes}\r\n").into() }
            }
            Ranges::Some(ranges) => NativeAnswer::Response(match <[_; 1]>::try_from(ranges) {
                Ok([range]) => one_range(representation, range),
                Err(ranges) => self.many_ranges(representation, ranges),
            }),
        }
    }

    /// multipart/byteranges (RFC 9110 section 14.6).
    fn many_ranges(&mut self, representation: &Representation, ranges: Vec<Range<u64>>) -> NativeResponse {
        self.next_boundary = self.next_boundary.wrapping_add(1);
        let boundary = format!("penstock-{:016x}", self.next_boundary);
        let mut pieces = Vec::with_capacity(2 * ranges.len() + 1);
        for range in ranges {
            let mut head = if pieces.is_empty() { Vec::new() } else { b"\r\n".to_vec() };
            // Writing to a Vec cannot fail.
            let _ = write!(head, "--{boundary}\r\n");
            head.extend_from_slice(representation.content_type_line());
            let _ = write!(head, "{}\r\n", ContentRange(&range, representation.bytes()));
            pieces.push(NativePiece::Own(head));
            pieces.push(representation.piece(range));
        }
        pieces.push(NativePiece::Own(format!("\r\n--{boundary}--\r\n").into()));
        let lines = format!("content-type: multipart/byteranges; boundary={boundary}\r\n").into();
        NativeResponse { status: 206, lines: representation.common_lines(lines), body: NativeBody::Many(pieces) }
    }

    fn finish(&mut self, finished: Finished, now: Instant) -> Vec<Token> {
        let Finished { mount, name, site, loaded } = finished;
        if Arc::ptr_eq(&site, &self.mounts[mount].site) {
            self.keep(mount, &name, &loaded, now);
        }
        let key = (mount, name);
        let tokens = self.waiting.remove(&key).unwrap_or_default();
        let its_name: Arc<[u8]> = key.1.into();
        self.arrived.extend(tokens.iter().map(|&token| (token, (mount, its_name.clone(), loaded.clone()))));
        tokens
    }
}

impl Responder for StaticFiles {
    #[inline]
    fn claims(&self, path: &[u8]) -> bool {
        path.first() == Some(&b'/') && self.mounts.iter().any(|mount| mount.below(path).is_some())
    }

    fn respond(&mut self, token: Token, request: &RequestView<'_>, now: Instant) -> NativeAnswer {
        let path = request.head.path.of(request.bytes);
        let Some(mount) = self.mounts.iter().position(|mount| mount.below(path).is_some()) else {
            return NativeAnswer::PassOn;
        };
        match self.answer(token, request, mount, now) {
            NativeAnswer::Page { error: ABSENT | METHOD, .. } if self.mounts[mount].falls_through => {
                NativeAnswer::PassOn
            }
            answer => answer,
        }
    }

    fn wakeup(&self) -> Option<RawFd> {
        Some(self.loader.fd())
    }

    fn tell(&mut self, counters: &ReactorCounters) {
        counters.static_hits.add(std::mem::take(&mut self.hits));
        counters.static_misses.add(std::mem::take(&mut self.misses));
        counters.static_cached_bytes.set(self.cache.bytes() as u64);
    }

    fn take_answerable(&mut self, now: Instant) -> Vec<Token> {
        self.loader.heard();
        // Those who had something waiting here and never came for it are gone.
        self.arrived.clear();
        let finished: Vec<_> = std::iter::from_fn(|| self.loader.take()).collect();
        finished.into_iter().flat_map(|finished| self.finish(finished, now)).collect()
    }
}

/// The file itself or one of its encoded copies, as the client prefers.
fn chosen<'a>(resource: &'a Resource, fields: &Fields<'_>) -> &'a Representation {
    let available = resource.coded.iter().filter_map(|coded| Some((coded.coding?, coded.bytes())));
    let coding = coding::choose(&fields.accept_encoding, available);
    resource.of_coding(coding).unwrap_or(&resource.plain)
}

fn weight(name: &[u8], resource: &Resource) -> Weight {
    let mut weight = Weight { bytes: ENTRY_BYTES + name.len(), files: 0 };
    for representation in resource.representations() {
        match &representation.content {
            Content::Bytes(bytes) => weight.bytes += bytes.len(),
            Content::File(_) => weight.files += 1,
        }
    }
    weight
}

fn one_range(representation: &Representation, range: Range<u64>) -> NativeResponse {
    let lines = representation.all_lines(ContentRange(&range, representation.bytes()).to_string().into());
    NativeResponse { status: 206, lines, body: NativeBody::One(representation.piece(range)) }
}

/// The line that tells which bytes these are, of how many.
struct ContentRange<'a>(&'a Range<u64>, u64);

impl std::fmt::Display for ContentRange<'_> {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "content-range: bytes {}-{}/{}\r\n", self.0.start, self.0.end - 1, self.1)
    }
}

fn plain_page(error: HttpError) -> NativeAnswer {
    NativeAnswer::Page { error, lines: Vec::new() }
}

/// To the same path with a slash behind it. The address is relative: it holds behind a proxy that strips a prefix, and
/// leads to no other host, whatever the path is.
fn moved(path: &[u8], query: &[u8]) -> NativeAnswer {
    let segment = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let question_mark: &[u8] = if query.is_empty() { b"" } else { b"?" };
    let lines = [b"location: ./", segment, b"/", question_mark, query, b"\r\n"].concat();
    NativeAnswer::Page { error: MOVED, lines }
}

#[cfg(test)]
mod tests;
