//! Framing: the same frames at every split, the same refusal; within bounds; and what is encoded is what is cut.

use penstock::protocol::framing::resp::arguments;
use penstock::protocol::framing::{Delimited, Endian, FrameErrorKind, Framing, LengthPrefixed, Resp, Scan, Varint};

use crate::input::{Input, Splits};

const MAX_FRAME_BYTES: usize = 300;

/// What came of a stream: its frames, and what was wrong with it.
#[derive(Debug, PartialEq, Eq)]
struct Reading {
    frames: Vec<Vec<u8>>,
    taken: usize,
    error: Option<FrameErrorKind>,
}

/// Three bytes choose the framing, two the splits; the rest is what the peer sends.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let Some(framing) = choose(&mut input) else { return };
    let word = input.word();
    let bytes = input.rest();
    let whole = read(&framing, bytes, vec![bytes.len()]);
    // Raw frames are the pieces themselves.
    if !matches!(framing, Framing::Raw) {
        assert_eq!(read(&framing, bytes, Splits::new(word).ends(bytes.len())), whole, "split by {word}");
        if bytes.len() <= 600 {
            assert_eq!(read(&framing, bytes, (1..=bytes.len()).collect()), whole, "byte by byte");
        }
    }
    check_bounds(&framing, &whole);
    check_encoding(&framing, bytes, &whole);
}

fn choose(input: &mut Input<'_>) -> Option<Framing> {
    let (kind, how, more) = (input.byte(), input.byte(), input.byte());
    Some(match kind % 7 {
        0 => Framing::Raw,
        1 => Framing::Fixed(1 + usize::from(how)),
        2 => {
            let width = [1, 2, 3, 4, 8][usize::from(how) % 5];
            let offset = usize::from(more & 7);
            let layout = LengthPrefixed::new(width, MAX_FRAME_BYTES).ok()?;
            let layout = layout.endian(if how & 128 == 0 { Endian::Big } else { Endian::Little });
            let layout = layout.counts_header(how & 64 != 0).adjust(i32::from(more >> 4) - 8).offset(offset).ok()?;
            Framing::LengthPrefixed(layout.strip(offset == 0 && how & 32 == 0).ok()?)
        }
        3 => Framing::Varint(Varint { max_frame_bytes: MAX_FRAME_BYTES }),
        4 => Framing::Delimited(Delimited::lines(MAX_FRAME_BYTES)),
        5 => Framing::Delimited(Delimited::by([&b"\n"[..], b"\r\n", b"aa", b"abab"][usize::from(how) % 4], MAX_FRAME_BYTES)?),
        _ => Framing::Resp(Resp { max_frame_bytes: MAX_FRAME_BYTES, max_arguments: u32::from(how) }),
    })
}

fn read(framing: &Framing, bytes: &[u8], ends: Vec<usize>) -> Reading {
    let mut reading = Reading { frames: Vec::new(), taken: 0, error: None };
    let mut scan = Scan::default();
    for end in ends {
        loop {
            let rest = &bytes[reading.taken..end];
            match framing.cut(rest, &mut scan) {
                Ok(Some(cut)) => {
                    assert!(cut.taken > 0 && cut.taken <= rest.len() && cut.frame.end <= cut.taken, "{cut:?}");
                    reading.frames.push(rest[cut.frame].to_vec());
                    reading.taken += cut.taken;
                    scan = Scan::default();
                }
                Ok(None) => break,
                Err(error) => return Reading { error: Some(error.kind), ..reading },
            }
        }
    }
    reading
}

/// What waits for the rest of a frame is bounded, and so is a frame.
fn check_bounds(framing: &Framing, reading: &Reading) {
    match framing {
        Framing::Raw | Framing::Fixed(_) => {}
        Framing::Resp(resp) => {
            for frame in &reading.frames {
                assert!(frame.len() <= MAX_FRAME_BYTES + 2, "{} bytes", frame.len());
                let ranges: Vec<_> = arguments(frame).collect();
                assert!(ranges.iter().all(|range| range.start <= range.end && range.end <= frame.len()));
                if frame.first() == Some(&b'*') {
                    assert!(ranges.len() <= resp.max_arguments as usize);
                }
            }
        }
        _ => assert!(reading.frames.iter().all(|frame| frame.len() <= MAX_FRAME_BYTES)),
    }
}

/// A frame that can be sent is the one that arrives, and the only one.
fn check_encoding(framing: &Framing, bytes: &[u8], reading: &Reading) {
    if matches!(framing, Framing::Resp(_)) {
        return;
    }
    for frame in reading.frames.iter().map(Vec::as_slice).chain([&bytes[..bytes.len().min(MAX_FRAME_BYTES)]]) {
        let mut wire = b"before".to_vec();
        match framing.encode(frame, &mut wire) {
            Err(_) => assert_eq!(wire, b"before", "a refused frame was written"),
            // A line that ends with CR is shown without it.
            Ok(()) if matches!(framing, Framing::Delimited(_)) && frame.ends_with(b"\r") => {}
            Ok(()) if wire.len() == b"before".len() => assert!(frame.is_empty()),
            Ok(()) => {
                let again = read(framing, &wire[6..], vec![wire.len() - 6]);
                assert_eq!((again.frames, again.error, again.taken), (vec![frame.to_vec()], None, wire.len() - 6));
            }
        }
    }
}
