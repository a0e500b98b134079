//! The HTTP load against small servers of one thread per connection, among them ones that misbehave.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use penstock::load::LoadError;
use penstock::load::http::{ErrorKind, HttpPlan, LoadReport, Pace, RequestParts, Target, TargetReport, run, run_until};

const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// A server whose every connection is `serve`d on a thread of its own. The threads end with the test's process.
fn server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let serve = Arc::clone(&serve);
            thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Read one request: its path and the length of its body. None at the connection's end.
fn request(stream: &mut TcpStream) -> Option<(String, usize)> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok()).unwrap_or(0);
    stream.read_exact(&mut vec![0; length]).ok()?;
    Some((head.split(' ').nth(1)?.to_owned(), length))
}

/// A server that answers every request with what `answer` makes of path and body length.
fn answering(answer: impl Fn(&str, usize) -> Vec<u8> + Send + Sync + 'static) -> SocketAddr {
    server(move |mut stream| {
        while let Some((path, length)) = request(&mut stream) {
            if stream.write_all(&answer(&path, length)).is_err() {
                return;
            }
        }
    })
}

fn plan(address: SocketAddr) -> HttpPlan {
    HttpPlan {
        connections: 4,
        duration: Duration::from_millis(200),
        answer_timeout: Duration::from_millis(500),
        ..HttpPlan::get(address, "/")
    }
}

fn target(path: &str, weight: u32, body_bytes: usize) -> Target {
    Target { path: path.to_owned(), weight, body_bytes }
}

fn only(report: &LoadReport) -> &TargetReport {
    assert_eq!(report.targets.len(), 1);
    &report.targets[0]
}

#[test]
fn a_closed_loop_counts_every_answer_once() {
    let served = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&served);
    let address = answering(move |_, _| {
        counter.fetch_add(1, Ordering::SeqCst);
        HELLO.to_vec()
    });
    let report = run(&plan(address)).unwrap();
    assert_eq!((report.answers() as usize, report.errors()), (served.load(Ordering::SeqCst), 0));
    let target = only(&report);
    assert_eq!(target.body_bytes, 5 * target.answers);
    assert_eq!(target.latencies.count(), target.answers);
    assert!(target.fewest_on_one > 0 && target.most_on_one <= target.answers - target.fewest_on_one);
    assert!(report.latencies().percentile(50.0) > Duration::ZERO);
}

#[test]
fn a_pipeline_has_its_requests_answered_in_order_and_all_of_them() {
    let report = run(&HttpPlan { pipeline: 8, ..plan(answering(|_, _| HELLO.to_vec())) }).unwrap();
    assert!(report.answers() > 8 * 4);
    assert_eq!(report.errors(), 0);
}

#[test]
fn a_posted_body_arrives_whole_and_is_answered() {
    let address = answering(|_, length| {
        let chunk = vec![b'y'; length];
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        [head, format!("{length:x}\r\n").into_bytes(), chunk, b"\r\n0\r\n\r\n".to_vec()].concat()
    });
    let report = run(&HttpPlan { targets: vec![target("/", 1, 300_000)], ..plan(address) }).unwrap();
    assert_eq!((only(&report).body_bytes, report.errors()), (300_000 * report.answers(), 0));
    assert!(report.answers() > 0);
}

#[test]
fn the_warm_up_is_counted_and_not_measured() {
    let plan = HttpPlan { warm_up: Duration::from_millis(200), ..plan(answering(|_, _| HELLO.to_vec())) };
    let report = run(&plan).unwrap();
    let target = only(&report);
    assert!(target.latencies.count() < target.answers);
    assert!(target.answers_in_time < target.answers);
}

#[test]
fn an_open_loop_makes_the_requests_that_its_rate_asks_for() {
    let plan = HttpPlan { pace: Pace::PerSecond(500.0), ..plan(answering(|_, _| HELLO.to_vec())) };
    let report = run(&plan).unwrap();
    assert_eq!((report.answers(), report.errors()), (100, 0));
}

/// One stall of 200 ms in 500 ms, at 200 requests a second over one connection: about 40 requests were due in it.
/// A generator that counts from sending would see one slow answer.
#[test]
fn an_open_loop_charges_a_stall_to_every_request_it_delayed() {
    let seen = AtomicUsize::new(0);
    let address = answering(move |_, _| {
        if seen.fetch_add(1, Ordering::SeqCst) == 20 {
            thread::sleep(Duration::from_millis(200));
        }
        HELLO.to_vec()
    });
    let duration = Duration::from_millis(500);
    let report = run(&HttpPlan { connections: 1, pace: Pace::PerSecond(200.0), duration, ..plan(address) }).unwrap();
    assert_eq!((report.answers(), report.errors()), (100, 0));
    let latencies = &only(&report).latencies;
    assert!(latencies.max() >= Duration::from_millis(195), "max {:?}", latencies.max());
    assert!(latencies.percentile(80.0) >= Duration::from_millis(75), "p80 {:?}", latencies.percentile(80.0));
}

#[test]
fn a_slow_target_does_not_hold_up_the_others_and_each_is_reported() {
    let address = answering(|path, _| {
        if path == "/slow" {
            thread::sleep(Duration::from_millis(50));
        }
        HELLO.to_vec()
    });
    let targets = vec![target("/slow", 1, 0), target("/fast", 3, 0)];
    let report = run(&HttpPlan { targets, ..plan(address) }).unwrap();
    let [slow, fast] = &report.targets[..] else { panic!("two targets") };
    assert_eq!((slow.connections, fast.connections), (1, 3));
    assert!(slow.latencies.percentile(50.0) >= Duration::from_millis(50));
    assert!(slow.answers <= 5 && fast.answers > 5 * slow.answers, "{} and {}", slow.answers, fast.answers);
}

#[test]
fn a_server_that_says_it_will_close_is_connected_to_again_without_an_error() {
    let address = server(|mut stream| {
        if request(&mut stream).is_some() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let report = run(&plan(address)).unwrap();
    assert_eq!(report.errors(), 0);
    assert!(report.answers() > 4 && report.reconnects >= report.answers() - 4);
}

#[test]
fn a_server_that_closes_before_the_whole_answer_is_an_error_of_each_request() {
    let address = server(|mut stream| {
        if request(&mut stream).is_some() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nnot all");
        }
    });
    let report = run(&plan(address)).unwrap();
    assert_eq!(report.answers(), 0);
    assert!(only(&report).errors.count(ErrorKind::Closed) > 4);
    assert_eq!(only(&report).errors.first.as_deref(), Some("the server closed before the whole answer"));
}

#[test]
fn a_wrong_length_is_found_by_the_bytes_that_follow() {
    let report = run(&plan(answering(|_, _| b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhello".to_vec()))).unwrap();
    assert!(only(&report).errors.count(ErrorKind::Malformed) > 0);
}

#[test]
fn another_status_than_200_is_counted_and_named() {
    let report = run(&plan(answering(|_, _| b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy".to_vec()))).unwrap();
    assert_eq!((report.answers(), report.reconnects), (0, 0));
    assert!(only(&report).errors.count(ErrorKind::Status) > 4);
    assert_eq!(only(&report).errors.first.as_deref(), Some("status 503, expected 200"));
}

#[test]
fn a_server_that_never_answers_times_out_every_request_and_the_run_ends() {
    let address = server(|mut stream| while request(&mut stream).is_some() {});
    let started = Instant::now();
    let report = run(&plan(address)).unwrap();
    assert_eq!((report.answers(), only(&report).errors.count(ErrorKind::TimedOut)), (0, 4));
    assert!(only(&report).latencies.max() >= Duration::from_millis(500), "they count with what they waited");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn an_answer_without_an_end_times_out_however_fast_it_comes() {
    let address = server(|mut stream| {
        if request(&mut stream).is_some() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            let chunk = [&b"10000\r\n"[..], &[b'x'; 0x10000], b"\r\n"].concat();
            while stream.write_all(&chunk).is_ok() {}
        }
    });
    let started = Instant::now();
    let report = run(&plan(address)).unwrap();
    assert_eq!((report.answers(), only(&report).errors.count(ErrorKind::TimedOut)), (0, 4));
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn requests_that_were_due_but_never_sent_are_counted_too() {
    let address = server(|mut stream| while request(&mut stream).is_some() {});
    let report = run(&HttpPlan { connections: 1, pace: Pace::PerSecond(100.0), ..plan(address) }).unwrap();
    let errors = &only(&report).errors;
    assert!(errors.count(ErrorKind::NeverSent) >= 17 && errors.total() == 20, "{errors:?}");
    assert_eq!(only(&report).latencies.count(), 20);
}

#[test]
fn a_refused_connection_is_one_clear_error() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = run(&plan(free)).unwrap_err();
    assert!(matches!(error, LoadError::Connect { opened: 0, wanted: 4, .. }));
    assert!(error.to_string().ends_with("is the server running?"), "{error}");
}

#[test]
fn a_server_that_goes_away_for_good_ends_the_run() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serving = thread::spawn(move || {
        let mut streams: Vec<_> = (0..4).map(|_| listener.accept().unwrap().0).collect();
        assert!(streams.iter_mut().all(|stream| request(stream).is_some()));
    });
    let error = run(&HttpPlan { duration: Duration::from_secs(60), ..plan(address) }).unwrap_err();
    assert!(matches!(error, LoadError::ServerGone { .. }), "{error}");
    serving.join().unwrap();
}

#[test]
fn the_caller_can_end_a_run_before_its_time() {
    let plan = HttpPlan { duration: Duration::from_secs(60), ..plan(answering(|_, _| HELLO.to_vec())) };
    let started = Instant::now();
    assert!(matches!(run_until(&plan, &mut |_| true), Err(LoadError::Interrupted)));
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn requests_carry_what_the_plan_gives_them() {
    let address = server(|mut stream| {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while stream.read_exact(&mut byte).is_ok() {
            head.push(byte[0]);
            if head.ends_with(b"\r\n\r\nbody") {
                let head = String::from_utf8(std::mem::take(&mut head)).unwrap();
                assert!(head.starts_with("PUT /there HTTP/1.1\r\nHost: example.test\r\nX-One: 1\r\n"), "{head}");
                assert!(head.contains("\r\nContent-Length: 4\r\n"), "{head}");
                if stream.write_all(HELLO).is_err() {
                    return;
                }
            }
        }
    });
    let parts = RequestParts {
        method: Some("PUT".to_owned()),
        host: Some("example.test".to_owned()),
        headers: vec![("X-One".to_owned(), "1".to_owned())],
        body: Some(b"body".to_vec()),
    };
    let report = run(&HttpPlan { parts, targets: vec![target("/there", 1, 0)], ..plan(address) }).unwrap();
    assert!(report.answers() > 0);
    assert_eq!(report.errors(), 0, "{:?}", only(&report).errors.first);
}

#[test]
fn the_plan_says_which_statuses_are_good() {
    let address = answering(|_, _| b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n".to_vec());
    let refused = run(&plan(address)).unwrap();
    assert_eq!(refused.answers(), 0);
    assert_eq!(only(&refused).errors.first.as_deref(), Some("status 302, expected 200"));
    let good = run(&HttpPlan { statuses: 200..=399, ..plan(address) }).unwrap();
    assert_eq!((good.errors(), good.answers() > 0), (0, true));
}

#[test]
fn whoever_watches_is_told_how_far_it_is() {
    let address = answering(|_, _| HELLO.to_vec());
    let mut told = Vec::new();
    let plan = HttpPlan { duration: Duration::from_millis(450), ..plan(address) };
    let report = run_until(&plan, &mut |progress| {
        told.push(progress);
        false
    })
    .unwrap();
    assert!(!told.is_empty());
    assert!(told.windows(2).all(|two| two[0].elapsed < two[1].elapsed && two[0].answers <= two[1].answers));
    assert!(told.last().unwrap().answers <= report.answers());
}
