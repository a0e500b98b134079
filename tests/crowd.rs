//! A crowd: opened from several addresses, asked, held, and counted exactly, whatever becomes of its members.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use penstock::load::crowd::{Crowd, CrowdPlan, Far, Question};
use penstock::load::http::ErrorKind;

/// A server that accepts all, in order, and hands the connections over; each is answered by a thread of its own once
/// it is given to `answer`.
struct Server {
    address: SocketAddr,
    accepted: Receiver<TcpStream>,
}

impl Server {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (give, accepted) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if give.send(stream).is_err() {
                    return;
                }
            }
        });
        Server { address, accepted }
    }

    /// Answer `?` with `!`, on as many as there are to be.
    fn answer(self, count: usize) -> std::thread::JoinHandle<Vec<TcpStream>> {
        std::thread::spawn(move || {
            let streams: Vec<_> = self.accepted.iter().take(count).collect();
            for stream in &streams {
                let mut stream = stream.try_clone().unwrap();
                std::thread::spawn(move || {
                    let mut byte = [0];
                    while matches!(stream.read(&mut byte), Ok(1)) && stream.write_all(b"!").is_ok() {}
                });
            }
            streams
        })
    }
}

fn plan(address: SocketAddr, connections: usize) -> CrowdPlan {
    let sources = (1..=3).map(|last| IpAddr::V4(Ipv4Addr::new(127, 9, 9, last))).collect();
    CrowdPlan { address, sources, connections, answer_timeout: Duration::from_secs(10) }
}

fn question() -> Question {
    Question::Bytes { ask: b"?".to_vec(), answer: b"!".to_vec() }
}

#[test]
fn every_member_is_opened_asked_and_counted() {
    let server = Server::new();
    let mut crowd = Crowd::new(plan(server.address, 40)).unwrap();
    let answering = server.answer(40);
    let mut last = Far::default();
    let opened = crowd.open(&mut question(), &mut |far| {
        last = far;
        false
    });
    let opened = opened.unwrap();
    assert_eq!((opened.open, opened.lost.total(), last.open), (40, 0, 40));
    let streams = answering.join().unwrap();
    let mut sources: Vec<_> = streams.iter().map(|stream| stream.peer_addr().unwrap().ip()).collect();
    sources.sort();
    sources.dedup();
    assert_eq!(sources.len(), 3, "the addresses take turns");

    let asked = crowd.ask_all(&mut question(), 7, &mut |_| false).unwrap();
    assert_eq!((asked.asked, asked.answered, asked.latencies.count(), asked.open), (40, 40, 40, 40));

    for mut stream in &streams {
        stream.write_all(b"hear").unwrap();
    }
    let mut heard = Question::Bytes { ask: Vec::new(), answer: b"hear".to_vec() };
    assert_eq!(crowd.expect(&mut heard, &mut |_| false).unwrap().answered, 40);
    crowd.close();
}

#[test]
fn a_member_that_is_lost_is_counted_once_and_by_its_reason() {
    let server = Server::new();
    let mut crowd =
        Crowd::new(CrowdPlan { answer_timeout: Duration::from_millis(300), ..plan(server.address, 5) }).unwrap();
    let (address, accepting) = (
        server.address,
        std::thread::spawn(move || {
            let streams: Vec<_> = server.accepted.iter().take(5).collect();
            (&streams[4]).read_exact(&mut [0]).unwrap();
            (&streams[4]).write_all(b"!").unwrap();
            streams
        }),
    );
    assert_eq!(crowd.open(&mut question(), &mut |_| false).unwrap().open, 5, "{address}");
    let mut streams = accepting.join().unwrap();
    // Of four: one is closed, one says something else, one says too much, one says nothing.
    drop(streams.remove(4));
    streams[0].write_all(b"x").unwrap();
    streams[1].write_all(b"!!").unwrap();
    let asked = crowd.ask_all(&mut question(), 100, &mut |_| false).unwrap();
    let count = |kind| asked.lost.count(kind);
    assert_eq!(asked.answered, 0);
    assert_eq!(count(ErrorKind::Malformed), 2, "{:?}", asked.lost);
    assert_eq!(count(ErrorKind::TimedOut), 2, "{:?}", asked.lost);
    // Its end was there before the question, or came upon it.
    assert_eq!(count(ErrorKind::Closed) + count(ErrorKind::Broken), 1, "{:?}", asked.lost);
    assert_eq!((asked.open, crowd.open_connections()), (0, 0));
    let again = crowd.ask_all(&mut question(), 100, &mut |_| false).unwrap();
    assert_eq!((again.asked, again.lost.total()), (0, 0), "they are not counted again");
}

#[test]
fn closing_resets_so_that_nothing_is_left_in_time_wait() {
    let server = Server::new();
    let mut crowd = Crowd::new(plan(server.address, 1)).unwrap();
    let accepting = std::thread::spawn(move || {
        let mut stream = server.accepted.recv().unwrap();
        stream.read_exact(&mut [0]).unwrap();
        stream.write_all(b"!").unwrap();
        stream
    });
    crowd.open(&mut question(), &mut |_| false).unwrap();
    let mut stream = accepting.join().unwrap();
    crowd.close();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_hold_asks_each_once_an_interval_until_it_is_ended() {
    let server = Server::new();
    let mut crowd = Crowd::new(plan(server.address, 10)).unwrap();
    let answering = server.answer(10);
    crowd.open(&mut question(), &mut |_| false).unwrap();
    let (control, mut ours) = UnixStream::pair().unwrap();
    let held = crowd.hold(control.as_raw_fd(), &mut question(), Some(Duration::from_millis(400)), &mut |far| {
        if far.answered >= 20 {
            ours.write_all(b"stop").unwrap();
        }
        false
    });
    let held = held.unwrap();
    assert_eq!((held.asked, held.open), (held.answered, 10));
    assert!((20..80).contains(&held.answered), "{}", held.answered);
    let streams = answering.join().unwrap();
    // Held without a question, it tells who leaves.
    let (control, mut ours) = UnixStream::pair().unwrap();
    streams[0].shutdown(std::net::Shutdown::Both).unwrap();
    let held = crowd.hold(control.as_raw_fd(), &mut question(), None, &mut |far| {
        if far.lost > 0 {
            ours.write_all(b"stop").unwrap();
        }
        false
    });
    assert_eq!(held.unwrap().lost.count(ErrorKind::Closed), 1);
}

#[test]
fn where_nobody_listens_every_connection_is_told_as_lost() {
    let address = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let mut crowd = Crowd::new(plan(address, 3)).unwrap();
    let opened = crowd.open(&mut question(), &mut |_| false).unwrap();
    let lost = opened.lost.count(ErrorKind::Connect) + opened.lost.count(ErrorKind::Broken);
    assert_eq!((opened.open, lost), (0, 3), "{:?}", opened.lost);
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_opened() {
    let address = SocketAddr::from(([127, 0, 0, 1], 9));
    for wrong in [
        CrowdPlan { connections: 0, ..plan(address, 1) },
        CrowdPlan { sources: Vec::new(), ..plan(address, 1) },
        CrowdPlan { sources: vec!["::1".parse().unwrap()], ..plan(address, 1) },
        CrowdPlan { answer_timeout: Duration::ZERO, ..plan(address, 1) },
    ] {
        assert!(Crowd::new(wrong).is_err());
    }
}
