//! The responder as a whole: a directory of its own, a clock that moves when told, and requests by their bytes.

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
    for path in ["../secret", "..%2fsecret", "%2e%2e/secret", "sub/../file", "..\\secret", "%00", "%c0%ae%c0%ae/secret"]
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
    for (path, location) in [("/s", "./s/"), ("/s/sub", "./sub/"), ("/s/sub?a=b&c", "./sub/?a=b&c"), ("/s?", "./s/")] {
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
