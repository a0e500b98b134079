//! Main and sub reactors as threads: connections are spread by how many each has, and none is lost on the way.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use penstock::core::buffer::Lease;
use penstock::core::poller::simulated::{FaultPlan, SimulatedNetwork};
use penstock::core::poller::{Poller, Readiness};
use penstock::core::{CloseReason, EventLoop, Hold, Io, Service, Token};
use penstock::reactor::{Mail, MainReactor, MainReactorError, SubReactor, SubReactorHandle};
use support::{PATIENCE, World, address, eventually, listener};

/// Echoes, each byte followed by the listener's number; ends with its peer.
struct Echo;

impl Service for Echo {
    type Connection = u16;
    type Mail = Mail;

    fn accepted(&mut self, _: &mut Io<u16>, _: Token, _: OwnedFd) {}

    fn received(&mut self, io: &mut Io<u16>, token: Token, lease: Lease) {
        let number = *io.state(token).expect("nothing is told of a closed connection") as u8;
        // SAFETY: the lease is of this turn.
        let bytes = unsafe { lease.as_slice() };
        io.append_with(token, |out| bytes.iter().for_each(|&byte| out.extend_from_slice(&[byte, number])));
    }

    fn ended(&mut self, io: &mut Io<u16>, token: Token) {
        io.close(token);
    }

    fn mail(&mut self, io: &mut Io<u16>, mail: Mail) {
        let Mail::Connection { fd, listener, on_its_way: _arrived } = mail;
        io.add_connection(fd, listener).expect("a connection is taken");
    }

    fn drained(&mut self, _: &mut Io<u16>, _: Token) {}
    fn expired(&mut self, _: &mut Io<u16>, _: Token) {}
    fn closed(&mut self, _: &mut Io<u16>, _: Token, _: u16, _: CloseReason) {}
    fn ready(&mut self, _: &mut Io<u16>, _: Token, _: Readiness) {}
    fn settle(&mut self, _: &mut Io<u16>) -> bool {
        true
    }
}

fn sub_reactors(count: usize) -> Vec<SubReactor> {
    (0..count)
        .map(|number| SubReactor::start(&format!("sub-{number}"), || EventLoop::new(epoll()?, Echo)).unwrap())
        .collect()
}

fn epoll() -> std::io::Result<Box<dyn Poller>> {
    Ok(World::Loopback.poller())
}

fn handles(sub_reactors: &[SubReactor]) -> Vec<SubReactorHandle> {
    sub_reactors.iter().map(|sub_reactor| sub_reactor.handle().clone()).collect()
}

fn main_reactor(sub_reactors: &[SubReactor]) -> MainReactor {
    let deserted = Box::new(|| panic!("a sub reactor is left"));
    MainReactor::start(epoll, handles(sub_reactors), deserted).unwrap()
}

/// Have the main reactor accept at a fresh address.
fn listen(main: &MainReactor, number: u16) -> SocketAddr {
    let listener = listener();
    let address = address(&listener);
    main.add_listener(non_blocking(listener), number).unwrap();
    address
}

fn non_blocking(listener: TcpListener) -> OwnedFd {
    listener.set_nonblocking(true).expect("sockets can be non-blocking");
    listener.into()
}

fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the loopback accepts connections");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    stream
}

/// Say one byte, and hear it with the number of the listener.
fn is_served(stream: &mut TcpStream) -> Option<u8> {
    let mut echo = [0; 2];
    stream.write_all(b"?").ok()?;
    stream.read_exact(&mut echo).ok()?;
    (echo[0] == b'?').then_some(echo[1])
}

fn counts(sub_reactors: &[SubReactor]) -> Vec<usize> {
    sub_reactors.iter().map(|sub_reactor| sub_reactor.handle().connections()).collect()
}

#[test]
fn a_burst_is_spread_evenly_though_nobody_has_answered_yet() {
    let subs = sub_reactors(4);
    let main = main_reactor(&subs);
    let address = listen(&main, 0);
    let mut peers: Vec<TcpStream> = (0..400).map(|_| dial(address)).collect();
    assert!(peers.iter_mut().all(|peer| is_served(peer) == Some(0)));
    eventually("all have arrived", || counts(&subs) == [100; 4]);
    assert_eq!(main.counters().connections_accepted.get(), 400);
    main.stop(Hold::Last).unwrap();
}

#[test]
fn a_new_connection_goes_to_the_reactor_with_the_fewest() {
    let subs = sub_reactors(3);
    let main = main_reactor(&subs);
    let address = listen(&main, 0);
    let mut peers: Vec<(usize, TcpStream)> = (0..30)
        .map(|_| {
            let before = counts(&subs);
            let mut peer = dial(address);
            is_served(&mut peer).expect("it is served");
            eventually("it has arrived", || counts(&subs).iter().sum::<usize>() == before.iter().sum::<usize>() + 1);
            let after = counts(&subs);
            ((0..3).find(|&sub| after[sub] > before[sub]).expect("somebody has it"), peer)
        })
        .collect();
    peers.retain(|(sub, _)| *sub != 1);
    eventually("its connections are closed", || counts(&subs) == [10, 0, 10]);
    let _more: Vec<TcpStream> = (0..10)
        .map(|_| {
            let mut peer = dial(address);
            is_served(&mut peer).expect("it is served");
            peer
        })
        .collect();
    eventually("all have arrived", || counts(&subs) == [10, 10, 10]);
    main.stop(Hold::Last).unwrap();
}

#[test]
fn a_connection_that_was_meant_for_a_reactor_that_is_gone_goes_to_another() {
    let mut subs = sub_reactors(3);
    let main = main_reactor(&subs);
    let address = listen(&main, 0);
    subs.remove(1).stop().unwrap();
    let mut peers: Vec<TcpStream> = (0..60).map(|_| dial(address)).collect();
    assert!(peers.iter_mut().all(|peer| is_served(peer).is_some()));
    eventually("all have arrived", || counts(&subs) == [30, 30]);
    main.stop(Hold::Last).unwrap();
}

#[test]
fn with_no_reactor_left_connections_are_closed_and_counted_and_it_is_said_once() {
    let subs = sub_reactors(2);
    let said = Arc::new(AtomicUsize::new(0));
    let count = said.clone();
    let deserted = Box::new(move || _ = count.fetch_add(1, Ordering::SeqCst));
    let main = MainReactor::start(epoll, handles(&subs), deserted).unwrap();
    let address = listen(&main, 0);
    subs.into_iter().for_each(|sub| sub.stop().unwrap());
    for _ in 0..10 {
        assert_eq!(is_served(&mut dial(address)), None);
    }
    eventually("all are counted", || main.counters().connections_orphaned.get() == 10);
    main.stop(Hold::Last).unwrap();
    assert_eq!(said.load(Ordering::SeqCst), 1);
}

#[test]
fn each_listener_s_number_goes_with_its_connections_and_is_its_own() {
    let subs = sub_reactors(2);
    let main = main_reactor(&subs);
    let addresses = [listen(&main, 3), listen(&main, 9)];
    assert_eq!(addresses.map(|address| is_served(&mut dial(address))), [Some(3), Some(9)]);
    let taken = main.add_listener(non_blocking(listener()), 9);
    assert!(matches!(taken, Err(MainReactorError::NumberTaken(9))));
    assert!(matches!(main.remove_listener(4, Hold::Shared), Err(MainReactorError::NoSuchListener(4))));
    main.remove_listener(9, Hold::Shared).unwrap();
    assert!(TcpStream::connect(addresses[1]).is_err());
    assert_eq!(is_served(&mut dial(addresses[0])), Some(3));
    assert_eq!(is_served(&mut dial(listen(&main, 9))), Some(9));
    main.stop(Hold::Last).unwrap();
}

#[test]
fn a_descriptor_that_does_not_listen_is_refused_with_the_kernel_s_reason() {
    let subs = sub_reactors(1);
    let main = main_reactor(&subs);
    let file = std::fs::File::open("/dev/null").unwrap();
    let refused = main.add_listener(file.into(), 0);
    assert!(matches!(&refused, Err(MainReactorError::Refused(error)) if error.raw_os_error() == Some(libc::EPERM)));
    main.stop(Hold::Last).unwrap();
}

#[test]
fn whoever_had_connected_when_accepting_ended_is_served() {
    for round in 0..10 {
        let subs = sub_reactors(2);
        let main = main_reactor(&subs);
        let address = listen(&main, 0);
        let (tell, told) = channel();
        let dialler = std::thread::spawn(move || {
            let mut peers = Vec::new();
            // Once the gate is shut nobody is answered.
            while let Ok(peer) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
                peers.push(peer);
                if peers.len() == 50 {
                    tell.send(()).expect("the test waits for this");
                }
            }
            peers
        });
        told.recv().expect("fifty have connected");
        if round % 2 == 0 {
            main.remove_listener(0, Hold::Last).unwrap()
        } else {
            main.stop(Hold::Last).unwrap()
        }
        let mut peers = dialler.join().unwrap();
        peers.iter().for_each(|peer| peer.set_read_timeout(Some(PATIENCE)).unwrap());
        let lost = peers.iter_mut().filter_map(|peer| is_served(peer).is_none().then_some(())).count();
        assert_eq!(lost, 0, "of {}", peers.len());
    }
}

#[test]
fn stopping_ends_the_threads_and_everything_they_hold() {
    let subs = sub_reactors(2);
    let main = main_reactor(&subs);
    let address = listen(&main, 0);
    let mut peer = dial(address);
    assert!(is_served(&mut peer).is_some());
    main.stop(Hold::Last).unwrap();
    assert!(TcpStream::connect(address).is_err());
    // The main reactor is gone, and what it handed over goes on.
    assert!(is_served(&mut peer).is_some());
    subs.into_iter().for_each(|sub| sub.stop().unwrap());
    assert_eq!(peer.read(&mut [0]).unwrap(), 0);
}

#[test]
fn what_fails_to_start_says_why() {
    let refuse = || Err(std::io::Error::from_raw_os_error(libc::ENOSYS));
    let subs = sub_reactors(1);
    let main = MainReactor::start(refuse, handles(&subs), Box::new(|| ()));
    assert_eq!(main.err().and_then(|error| error.raw_os_error()), Some(libc::ENOSYS));
    let sub = SubReactor::start("sub", move || EventLoop::new(refuse()?, Echo));
    assert_eq!(sub.err().and_then(|error| error.raw_os_error()), Some(libc::ENOSYS));
}

#[test]
fn out_of_descriptors_the_main_reactor_rests_and_then_accepts_what_waited() {
    let network = SimulatedNetwork::new(7, FaultPlan::ROUGH);
    let open = |network: &SimulatedNetwork| {
        let network = network.clone();
        move || -> std::io::Result<Box<dyn Poller>> { Ok(Box::new(network.poller())) }
    };
    let subs: Vec<SubReactor> = (0..2)
        .map(|_| {
            let open = open(&network);
            SubReactor::start("sub", move || EventLoop::new(open()?, Echo)).unwrap()
        })
        .collect();
    let main = MainReactor::start(open(&network), handles(&subs), Box::new(|| ())).unwrap();
    let fd = network.listen().unwrap();
    let raw = fd.as_raw_fd();
    network.exhaust_descriptors(true);
    main.add_listener(fd, 5).unwrap();
    let mut peers: Vec<_> = (0..8).map(|_| network.dial(raw)).collect();
    eventually("accepting has failed", || main.counters().accept_failures.get() > 0);
    assert_eq!(counts(&subs), [0, 0]);
    network.exhaust_descriptors(false);
    for peer in &mut peers {
        peer.write(b"?");
        let deadline = Instant::now() + PATIENCE;
        let mut heard = Vec::new();
        while heard.len() < 2 {
            assert!(Instant::now() < deadline, "it was never served");
            heard.extend(peer.read(2));
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(heard, [b'?', 5]);
    }
    assert_eq!(counts(&subs), [4, 4]);
    main.stop(Hold::Last).unwrap();
}
