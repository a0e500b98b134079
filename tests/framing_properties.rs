//! What every framing promises, held against random frames, settings and splits.

use penstock::protocol::framing::{Delimited, Endian, Framing, LengthPrefixed, Scan, Varint};
use proptest::prelude::*;

fn framings() -> impl Strategy<Value = Framing> {
    let lengths = (prop::sample::select(vec![1, 2, 3, 4, 8]), any::<bool>(), any::<bool>(), 0..4_i32).prop_map(
        |(width, little, counts, adjust)| {
            let layout = LengthPrefixed::new(width, 10_000).unwrap();
            let endian = if little { Endian::Little } else { Endian::Big };
            Framing::LengthPrefixed(layout.endian(endian).counts_header(counts).adjust(-adjust))
        },
    );
    prop_oneof![
        lengths,
        Just(Framing::Varint(Varint { max_frame_bytes: 10_000 })),
        Just(Framing::Delimited(Delimited::lines(10_000))),
        prop::collection::vec(any::<u8>(), 1..17)
            .prop_map(|delimiter| Framing::Delimited(Delimited::by(&delimiter, 10_000).unwrap())),
    ]
}

proptest! {
    #[test]
    fn frames_that_were_sent_arrive_as_they_were_however_the_wire_cuts_them(
        framing in framings(),
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..12),
        steps in prop::collection::vec(1_usize..64, 1..8),
    ) {
        let (mut wire, mut sent) = (Vec::new(), Vec::new());
        for frame in frames {
            let is_line = matches!(framing, Framing::Delimited(_));
            if !(is_line && frame.ends_with(b"\r")) && framing.encode(&frame, &mut wire).is_ok() {
                sent.push(frame);
            }
        }
        let (mut got, mut start, mut end, mut scan) = (Vec::new(), 0, 0, Scan::default());
        for step in steps.iter().cycle() {
            end = (end + step).min(wire.len());
            while let Some(cut) = framing.cut(&wire[start..end], &mut scan).unwrap() {
                got.push(wire[start..end][cut.frame].to_vec());
                (start, scan) = (start + cut.taken, Scan::default());
            }
            if end == wire.len() {
                break;
            }
        }
        prop_assert_eq!(got, sent);
        prop_assert_eq!(start, wire.len(), "nothing is left over");
    }

    #[test]
    fn hostile_bytes_are_framed_or_refused_and_never_more_is_held_than_allowed(
        framing in framings(),
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        let (mut start, mut scan) = (0, Scan::default());
        while let Ok(Some(cut)) = framing.cut(&bytes[start..], &mut scan) {
            prop_assert!(cut.taken > 0 && start + cut.taken <= bytes.len());
            prop_assert!(cut.frame.start <= cut.frame.end && cut.frame.end <= cut.taken);
            (start, scan) = (start + cut.taken, Scan::default());
        }
    }
}
