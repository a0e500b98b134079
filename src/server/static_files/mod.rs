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
                return Some(entry.value.clone());
            }
            known = match &entry.value {
                Loaded::File(resource) => Some(resource.clone()),
                _ => None,
            };
        }
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
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileExt, symlink};
    use std::path::Path;

    use super::testing::Directory;
    use super::*;
    use crate::core::slab::Slab;
    use crate::protocol::http1::{Limits as HeadLimits, RequestHead};

    /// StaticFiles over a directory of its own, and a clock that moves when it is told.
    struct World {
        directory: Directory,
        files: StaticFiles,
        token: Token,
        now: Instant,
    }

    /// An answer, its body read wherever it is.
    #[derive(PartialEq, Eq, Debug)]
    struct Answer {
        status: u16,
        lines: String,
        body: Vec<u8>,
    }

    impl Answer {
        fn line(&self, name: &str) -> Option<&str> {
            self.lines.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        }
    }

    impl World {
        fn new(configure: impl FnOnce(&mut MountSettings)) -> Self {
            Self::with_files(configure, |_| {})
        }

        fn with_files(configure: impl FnOnce(&mut MountSettings), fill: impl FnOnce(&Path)) -> Self {
            let directory = Directory::new();
            let served = directory.path().join("served");
            fs::create_dir(&served).unwrap();
            fill(&served);
            let mut mount = MountSettings {
                prefix: "/s".into(),
                directory: served,
                cache_control: None,
                listing: false,
                hidden: false,
                falls_through: false,
            };
            configure(&mut mount);
            let settings = StaticSettings { mounts: vec![mount], cache_bytes: 1 << 20, open_files: 4 };
            let files = StaticFiles::open(settings).unwrap();
            World { directory, files, token: Slab::default().insert(()), now: Instant::now() }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join("served").join(name)
        }

        fn write(&self, name: &str, content: impl AsRef<[u8]>) {
            fs::write(self.path(name), content).unwrap();
        }

        fn ask(&mut self, request_line: &str, headers: &str) -> NativeAnswer {
            let bytes = format!("{request_line} HTTP/1.1\r\nhost: x\r\n{headers}\r\n").into_bytes();
            let mut head = RequestHead::default();
            head.parse(&bytes, &HeadLimits::default()).unwrap();
            let request = RequestView { bytes: &bytes, head: &head, forwarded: None };
            assert!(self.files.claims(head.path.of(&bytes)), "{request_line}");
            let answer = self.files.respond(self.token, &request, self.now);
            if !matches!(answer, NativeAnswer::Later) {
                return answer;
            }
            self.wait_for_loader();
            self.files.respond(self.token, &request, self.now)
        }

        fn wait_for_loader(&mut self) {
            let patience = Instant::now() + Duration::from_secs(10);
            while self.files.take_answerable(self.now).is_empty() {
                assert!(Instant::now() < patience, "the loader does not answer");
                std::thread::yield_now();
            }
        }

        fn request(&mut self, request_line: &str, headers: &str) -> Answer {
            match self.ask(request_line, headers) {
                NativeAnswer::Response(response) => read(&response),
                NativeAnswer::Page { error, lines } => {
                    Answer { status: error.status, lines: String::from_utf8(lines).unwrap(), body: Vec::new() }
                }
                NativeAnswer::PassOn => Answer { status: 0, lines: String::new(), body: Vec::new() },
                NativeAnswer::Later => panic!("later, again"),
            }
        }

        fn get(&mut self, path: &str) -> Answer {
            self.request(&format!("GET {path}"), "")
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
        }
    }

    fn read(response: &NativeResponse) -> Answer {
        let lines = [&response.lines.shared[..response.lines.shared_bytes], &response.lines.own].concat();
        let mut body = Vec::new();
        let pieces = match &response.body {
            NativeBody::Empty => &[][..],
            NativeBody::One(piece) => std::slice::from_ref(piece),
            NativeBody::Many(pieces) => pieces,
        };
        for piece in pieces {
            match piece {
                NativePiece::Shared(bytes, range) => body.extend_from_slice(&bytes[range.clone()]),
                NativePiece::Own(bytes) => body.extend_from_slice(bytes),
                NativePiece::File { file, offset, bytes } => {
                    let mut part = vec![0; *bytes];
                    fs::File::from(file.try_clone().unwrap()).read_exact_at(&mut part, *offset).unwrap();
                    body.extend_from_slice(&part);
                }
            }
        }
        Answer { status: response.status, lines: String::from_utf8(lines).unwrap(), body }
    }

    fn large() -> Vec<u8> {
        (0..100_000_u32).map(|n| n as u8).collect()
    }

    #[test]
    fn a_small_file_comes_from_memory_and_a_large_one_from_its_descriptor() {
        let mut world = World::new(|mount| mount.cache_control = Some("public, max-age=60".into()));
        world.write("small.txt", "hello");
        world.write("large.bin", large());
        for _ in 0..2 {
            let small = world.get("/s/small.txt");
            assert_eq!((small.status, &small.body[..]), (200, &b"hello"[..]));
            assert_eq!(small.line("content-type"), Some("text/plain; charset=utf-8"));
            assert_eq!(small.line("cache-control"), Some("public, max-age=60"));
            assert_eq!(small.line("x-content-type-options"), Some("nosniff"));
            assert_eq!(small.line("vary"), None);
            assert_eq!(world.get("/s/large.bin").body, large());
        }
        assert!(matches!(world.ask("GET /s/large.bin", ""), NativeAnswer::Response(response)
            if matches!(response.body, NativeBody::One(NativePiece::File { bytes: 100_000, .. }))));
    }

    #[test]
    fn only_paths_below_the_prefix_are_claimed_and_the_longest_prefix_wins() {
        let directory = Directory::new();
        for (name, content) in [("a", "all"), ("b", "assets"), ("c", "deep")] {
            fs::create_dir(directory.path().join(name)).unwrap();
            fs::write(directory.path().join(name).join("f"), content).unwrap();
        }
        let mount = |prefix: &str, name: &str| MountSettings {
            prefix: prefix.into(),
            directory: directory.path().join(name),
            cache_control: None,
            listing: false,
            hidden: false,
            falls_through: false,
        };
        let mounts = vec![mount("/assets", "b"), mount("/assets/deep", "c")];
        let files = StaticFiles::open(StaticSettings { mounts, cache_bytes: 0, open_files: 0 }).unwrap();
        for (path, claimed) in [
            ("/assets", true),
            ("/assets/", true),
            ("/assets/x", true),
            ("/assetsx", false),
            ("/", false),
            ("", false),
            ("*", false),
            ("assets", false),
        ] {
            assert_eq!(files.claims(path.as_bytes()), claimed, "{path}");
        }
        let mounts = vec![mount("/", "a"), mount("/assets", "b"), mount("/assets/deep", "c")];
        let files = StaticFiles::open(StaticSettings { mounts, cache_bytes: 0, open_files: 0 }).unwrap();
        let now = Instant::now();
        let mut world = World { directory: Directory::new(), files, token: Slab::default().insert(()), now };
        for (path, expected) in [("/f", "all"), ("/assets/f", "assets"), ("/assets/deep/f", "deep")] {
            assert_eq!(String::from_utf8(world.get(path).body).unwrap(), expected);
        }
        assert_eq!(world.get("/assets/deep/g").status, 404);
        assert_eq!(world.get("/assets/deepest").status, 404);
        assert!(!world.files.claims(b"*"));
    }

    #[test]
    fn a_change_is_noticed_within_a_second() {
        let mut world = World::new(|_| {});
        world.write("small", "one");
        world.write("large", large());
        let (small, large_before) = (world.get("/s/small"), world.get("/s/large"));
        world.write("small", "two");
        assert_eq!(world.get("/s/small"), small, "believed for a second");
        world.pass(BELIEVED);
        let after = world.get("/s/small");
        assert_eq!(after.body, b"two");
        assert_ne!(after.line("etag"), small.line("etag"));

        // A large file is looked at whenever it is sent.
        fs::File::options().write(true).open(world.path("large")).unwrap().set_len(50_000).unwrap();
        let shorter = world.get("/s/large");
        assert_eq!((shorter.body.len(), shorter.status), (50_000, 200));
        assert_ne!(shorter.line("etag"), large_before.line("etag"));

        fs::remove_file(world.path("small")).unwrap();
        fs::rename(world.path("large"), world.path("small")).unwrap();
        world.pass(BELIEVED);
        assert_eq!(world.get("/s/small").body.len(), 50_000);
        assert_eq!(world.get("/s/large").status, 404);
    }

    #[test]
    fn what_was_written_twice_within_a_tick_is_read_again() {
        let mut world = World::new(|_| {});
        world.write("f", "one");
        assert_eq!(world.get("/s/f").body, b"one");
        let times = fs::metadata(world.path("f")).unwrap();
        fs::write(world.path("f"), "two").unwrap();
        let file = fs::File::options().write(true).open(world.path("f")).unwrap();
        file.set_modified(times.modified().unwrap()).unwrap();
        world.pass(BELIEVED);
        assert_eq!(world.get("/s/f").body, b"two");
    }

    #[test]
    fn a_directory_swapped_under_the_mount_is_served_from_then_on() {
        let mut world = World::new(|_| {});
        world.write("f", "old");
        assert_eq!(world.get("/s/f").body, b"old");
        let served = world.path("");
        let served = served.parent().unwrap().join("served");
        fs::rename(&served, world.directory.path().join("before")).unwrap();
        fs::create_dir(&served).unwrap();
        world.write("f", "new");
        world.pass(BELIEVED);
        assert_eq!(world.get("/s/f").body, b"new");
        fs::rename(&served, world.directory.path().join("away")).unwrap();
        world.pass(BELIEVED);
        assert_eq!(world.get("/s/f").body, b"new", "what is gone is served on until something takes its place");
    }

    #[test]
    fn nothing_outside_and_nothing_special_is_served() {
        let mut world = World::new(|_| {});
        fs::write(world.directory.path().join("secret"), "secret").unwrap();
        world.write("file", "inside");
        world.write(".env", "secret");
        fs::create_dir(world.path("sub")).unwrap();
        symlink("file", world.path("link")).unwrap();
        symlink("../secret", world.path("out")).unwrap();
        symlink("/etc/passwd", world.path("absolute")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, world.path("fifo"), rustix::fs::Mode::RWXU).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(world.path("socket")).unwrap();
        symlink("/dev/zero", world.path("device")).unwrap();
        assert_eq!(world.get("/s/link").body, b"inside");
        for path in
            ["out", "absolute", "fifo", "socket", "device", ".env", "sub/", "file/", "file/x", "none", "sub//", "/file"]
        {
            let answer = world.get(&format!("/s/{path}"));
            assert_eq!((answer.status, answer.body.len()), (404, 0), "{path}");
        }
        for path in
            ["../secret", "..%2fsecret", "%2e%2e/secret", "sub/../file", "..\\secret", "%00", "%c0%ae%c0%ae/secret"]
        {
            let answer = world.get(&format!("/s/{path}"));
            assert_eq!((answer.status, answer.body.len()), (400, 0), "{path}");
        }
        assert_eq!(world.get(&format!("/s/{}", "x".repeat(300))).status, 404);
        assert_eq!(world.get(&format!("/s/{}", "x/".repeat(3000))).status, 404);
    }

    #[test]
    fn names_of_all_kinds_are_found() {
        let mut world = World::new(|_| {});
        for (name, path) in [
            ("a b", "a%20b"),
            ("line\nfeed", "line%0Afeed"),
            ("100%", "100%25"),
            ("ä", "%C3%A4"),
            ("%41", "%2541"),
            ("a:b;c,d=e&f'g", "a:b;c,d=e&f'g"),
        ] {
            world.write(name, name);
            assert_eq!(world.get(&format!("/s/{path}")).body, name.as_bytes(), "{path}");
        }
        assert_eq!(world.get("/s/A").status, 404);
    }

    #[test]
    fn a_directory_has_its_index_and_its_slash() {
        let mut world = World::new(|_| {});
        fs::create_dir(world.path("sub")).unwrap();
        world.write("sub/index.html", "index");
        for (path, location) in
            [("/s", "./s/"), ("/s/sub", "./sub/"), ("/s/sub?a=b&c", "./sub/?a=b&c"), ("/s?", "./s/")]
        {
            let answer = world.get(path);
            assert_eq!((answer.status, answer.line("location")), (301, Some(location)), "{path}");
        }
        let answer = world.get("/s/sub/");
        assert_eq!((answer.body, answer.lines.contains("text/html")), (b"index".to_vec(), true));
        assert_eq!(world.get("/s/").status, 404, "no index, and no listing unless asked for");
    }

    #[test]
    fn a_listing_shows_what_can_be_asked_for_and_is_made_anew_each_second() {
        let mut world = World::new(|mount| mount.listing = true);
        fs::create_dir(world.path("sub")).unwrap();
        world.write("b.txt", "12345");
        world.write("a&b", "");
        world.write(".hidden", "");
        symlink("../..", world.path("out")).unwrap();
        symlink("b.txt", world.path("link")).unwrap();
        let page = String::from_utf8(world.get("/s/").body).unwrap();
        let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text} is not in {page}"));
        assert!(at(">sub/<") < at(">a&amp;b<") && at(">a&amp;b<") < at(">b.txt<") && at(">b.txt<") < at(">link<"));
        assert!(!page.contains("hidden") && !page.contains(">out"));
        world.write("new", "");
        assert_eq!(world.get("/s/").body, page.as_bytes(), "believed for a second");
        world.pass(BELIEVED);
        assert!(String::from_utf8(world.get("/s/").body).unwrap().contains(">new<"));
        assert_eq!(world.get("/s/none/").status, 404);
        assert_eq!(world.get("/s/b.txt/").status, 404);
        assert_eq!(world.request("HEAD /s/", "").status, 200);
    }

    #[test]
    fn encoded_copies_are_chosen_by_the_client_and_vary() {
        let mut world = World::with_files(
            |_| {},
            |served| {
                for (name, content) in [("f.js", "plain....."), ("f.js.gz", "gzip..."), ("f.js.br", "brotli")] {
                    fs::write(served.join(name), content).unwrap();
                }
            },
        );
        for (accept, body, coding) in [
            ("", "plain.....", None),
            ("accept-encoding: gzip, br\r\n", "brotli", Some("br")),
            ("accept-encoding: gzip\r\n", "gzip...", Some("gzip")),
            ("accept-encoding: zstd\r\n", "plain.....", None),
        ] {
            let answer = world.request("GET /s/f.js", accept);
            assert_eq!((&answer.body[..], answer.line("content-encoding")), (body.as_bytes(), coding), "{accept}");
            assert_eq!(answer.line("vary"), Some("accept-encoding"));
            assert_eq!(answer.line("content-type"), Some("text/javascript; charset=utf-8"));
            let etag = format!("if-none-match: {}\r\n", answer.line("etag").unwrap());
            let again = world.request("GET /s/f.js", &format!("{accept}{etag}"));
            assert_eq!((again.status, again.line("vary")), (304, Some("accept-encoding")));
            assert_eq!(
                world.request("GET /s/f.js", &format!("accept-encoding: br;q=0.5, deflate\r\n{etag}")).status,
                if coding == Some("br") { 304 } else { 200 }
            );
        }
        fs::remove_file(world.path("f.js.br")).unwrap();
        fs::remove_file(world.path("f.js.gz")).unwrap();
        world.pass(BELIEVED);
        let answer = world.request("GET /s/f.js", "accept-encoding: gzip, br\r\n");
        assert_eq!((answer.body, answer.lines.contains("vary")), (b"plain.....".to_vec(), false));
    }

    #[test]
    fn ranges_of_both_kinds_of_files_are_the_bytes_asked_for() {
        let mut world = World::new(|_| {});
        world.write("small", &large()[..1000]);
        world.write("large", large());
        for (name, size) in [("small", 1000), ("large", 100_000)] {
            let line = format!("GET /s/{name}");
            let one = world.request(&line, "range: bytes=10-19\r\n");
            assert_eq!((one.status, &one.body[..]), (206, &large()[10..20]));
            assert_eq!(one.line("content-range"), Some(&*format!("bytes 10-19/{size}")));
            let last = world.request(&line, "range: bytes=-5\r\n");
            assert_eq!(last.body, &large()[size - 5..size]);
            let beyond = world.request(&line, &format!("range: bytes={size}-\r\n"));
            assert_eq!((beyond.status, beyond.line("content-range")), (416, Some(&*format!("bytes */{size}"))));
            let head = world.request(&format!("HEAD /s/{name}"), "range: bytes=10-19\r\n");
            assert_eq!((head.status, head.body.len()), (200, size));
            let two = world.request(&line, "range: bytes=0-1,500-502\r\n");
            let kind = two.line("content-type").unwrap().to_owned();
            let boundary = kind.strip_prefix("multipart/byteranges; boundary=").unwrap();
            let part = |from: usize, to: usize| {
                let head = "content-type: application/octet-stream\r\n";
                let head = format!("--{boundary}\r\n{head}content-range: bytes {from}-{to}/{size}\r\n\r\n");
                [head.as_bytes(), &large()[from..=to]].concat()
            };
            let end = format!("\r\n--{boundary}--\r\n");
            assert_eq!(two.body, [part(0, 1), b"\r\n".to_vec(), part(500, 502), end.into_bytes()].concat());
            assert_eq!(two.line("content-range"), None);
        }
    }

    #[test]
    fn a_method_that_does_not_read_is_told_those_that_do() {
        let mut world = World::new(|_| {});
        world.write("f", "x");
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "get"] {
            let answer = world.request(&format!("{method} /s/f"), "");
            assert_eq!((answer.status, answer.line("allow")), (405, Some("GET, HEAD")), "{method}");
        }
    }

    #[test]
    fn with_fallthrough_the_application_gets_what_is_not_there() {
        let mut world = World::new(|mount| mount.falls_through = true);
        world.write("f", "x");
        assert_eq!(world.get("/s/f").status, 200);
        for line in ["GET /s/none", "POST /s/f", "GET /s/.env"] {
            assert_eq!(world.request(line, "").status, 0, "{line}");
        }
        assert_eq!(world.get("/s/..").status, 400);
    }

    #[test]
    fn descriptors_are_bounded_and_every_file_is_served_all_the_same() {
        let mut world = World::new(|_| {});
        for n in 0..20 {
            world.write(&format!("f{n}"), [&large()[..], &[n]].concat());
        }
        for round in 0..2 {
            for n in 0..20 {
                assert_eq!(world.get(&format!("/s/f{n}")).body.last(), Some(&n), "{round}");
            }
        }
        let entries = (0..20).filter(|n| world.files.cache.get(0, format!("f{n}").as_bytes()).is_some()).count();
        assert_eq!(entries, 4);
    }

    #[test]
    fn those_who_wait_for_the_same_name_are_answered_by_one_look() {
        let mut world = World::new(|mount| mount.listing = true);
        let bytes = b"GET /s/ HTTP/1.1\r\nhost: x\r\n\r\n";
        let mut head = RequestHead::default();
        head.parse(bytes, &HeadLimits::default()).unwrap();
        let request = RequestView { bytes, head: &head, forwarded: None };
        let mut slab = Slab::default();
        let tokens = [slab.insert(()), slab.insert(()), slab.insert(())];
        for token in tokens {
            assert!(matches!(world.files.respond(token, &request, world.now), NativeAnswer::Later));
        }
        assert_eq!(world.files.waiting.len(), 1);
        let patience = Instant::now() + Duration::from_secs(10);
        let answerable = loop {
            let answerable = world.files.take_answerable(world.now);
            if !answerable.is_empty() {
                break answerable;
            }
            assert!(Instant::now() < patience);
            std::thread::yield_now();
        };
        assert_eq!(answerable, tokens);
        for token in tokens {
            let answer = world.files.respond(token, &request, world.now);
            assert!(matches!(answer, NativeAnswer::Response(NativeResponse { status: 200, .. })));
        }
    }
}
