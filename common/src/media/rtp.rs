//! Frames to RTP payloads, once per frame however many viewers there are.
//!
//! In: a frame in canonical form. Out: the payloads that carry it (RFC 6184 packetization-mode 1 for H.264, RFC 7587
//! for Opus), each without its RTP header, which differs per viewer. Deliberately absent: sequence numbers, SSRCs,
//! encryption, and H.264's interleaved mode, which no browser receives.

use std::sync::{Arc, OnceLock};

use super::{Codec, Frame, Info, nal};

/// What fits into a datagram of 1,200 bytes (the size every path carries) beside the RTP header, the extensions that
/// sessions use, the RTX header and the SRTP tag.
const PAYLOAD_BYTES_MAX: usize = 1_148;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RtpPayload {
    /// Shared by all viewers, and by their retransmission caches.
    pub payload: Arc<[u8]>,
    /// Last packet of an access unit (video only).
    pub marker: bool,
}

/// The payloads of a frame, made when the first viewer asks and kept beside it: all shards share one copy.
#[derive(Debug, Default)]
pub struct RtpCache(OnceLock<Box<[RtpPayload]>>);

impl Frame {
    /// Empty for codecs that no session carries, and for frames that hold nothing a decoder needs.
    pub fn rtp(&self) -> &[RtpPayload] {
        self.rtp.0.get_or_init(|| {
            match self.info.codec {
                Codec::H264 => h264(&self.payload, self.keyframe.then_some(&*self.info)),
                Codec::Opus => vec![RtpPayload { payload: Arc::from(&self.payload[..]), marker: false }],
                // `Info::obstacle` has these converted before they could get here.
                Codec::H265 | Codec::Av1 | Codec::Vp8 | Codec::Vp9 | Codec::Aac => Vec::new(),
            }
            .into_boxed_slice()
        })
    }
}

const NAL_FILLER: u8 = 12;
const NAL_DELIMITER: u8 = 9;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;
const REF_IDC: u8 = 0x60;

/// The parameter sets of `info` go ahead of a keyframe: a viewer that joins there has nothing else to learn them from.
fn h264(access_unit: &[u8], info: Option<&Info>) -> Vec<RtpPayload> {
    let sets = info.map(nal::parameter_sets).unwrap_or_default();
    // A length that lies costs what follows it.
    let slices = nal::units(access_unit, nal::LENGTH_SIZE).map_while(Result::ok).map(|range| &access_unit[range]);
    // Delimiters say what the marker bit says, filler says nothing.
    let carried = |nal: &&[u8]| !matches!(nal.first().map(|b| b & 0x1f), None | Some(NAL_DELIMITER | NAL_FILLER));
    let units: Vec<&[u8]> = sets.iter().map(|set| &set[..]).chain(slices).filter(carried).collect();

    let mut payloads = Vec::new();
    let mut rest = &units[..];
    while let [first, ..] = rest {
        if first.len() > PAYLOAD_BYTES_MAX {
            fragment(first, &mut payloads);
            rest = &rest[1..];
            continue;
        }
        // As many as fit travel together: parameter sets with each other, small slices with their neighbours.
        let mut bytes = 1;
        let together = rest.iter().take_while(|nal| {
            bytes += 2 + nal.len();
            bytes <= PAYLOAD_BYTES_MAX
        });
        let (group, after) = rest.split_at(together.count().max(1));
        match group {
            [single] => payloads.push(Arc::from(*single)),
            _ => payloads.push(aggregate(group)),
        }
        rest = after;
    }
    let count = payloads.len();
    payloads.into_iter().enumerate().map(|(i, payload)| RtpPayload { payload, marker: i + 1 == count }).collect()
}

/// RFC 6184 section 5.7.1.
fn aggregate(nals: &[&[u8]]) -> Arc<[u8]> {
    let ref_idc = nals.iter().map(|nal| nal[0] & REF_IDC).max().unwrap_or(0);
    let mut out = vec![ref_idc | STAP_A];
    for nal in nals {
        out.extend_from_slice(&(nal.len() as u16).to_be_bytes());
        out.extend_from_slice(nal);
    }
    out.into()
}

/// RFC 6184 section 5.8, in pieces of equal size: the kernel's segmentation offload wants that.
fn fragment(nal: &[u8], payloads: &mut Vec<Arc<[u8]>>) {
    let (header, body) = (nal[0], &nal[1..]);
    let pieces = body.len().div_ceil(PAYLOAD_BYTES_MAX - 2);
    let size = body.len().div_ceil(pieces);
    for (i, piece) in body.chunks(size).enumerate() {
        let start = u8::from(i == 0) << 7;
        let end = u8::from((i + 1) * size >= body.len()) << 6;
        let mut out = Vec::with_capacity(2 + piece.len());
        out.extend_from_slice(&[(header & (0x80 | REF_IDC)) | FU_A, start | end | (header & 0x1f)]);
        out.extend_from_slice(piece);
        payloads.push(out.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Shape;

    fn nal(header: u8, bytes: usize) -> Vec<u8> {
        let mut nal = vec![header];
        nal.extend((1..bytes).map(|i| i as u8));
        nal
    }

    fn access_unit(nals: &[Vec<u8>]) -> Vec<u8> {
        nals.iter().flat_map(|nal| [&(nal.len() as u32).to_be_bytes()[..], nal].concat()).collect()
    }

    fn info(config: bytes::Bytes) -> Info {
        Info { codec: Codec::H264, config, shape: Shape::Video { width: 640, height: 360, reorders: false } }
    }

    fn avcc(sps: &[u8], pps: &[u8]) -> Info {
        let mut config = vec![1, sps[1], sps[2], sps[3], 0xff, 0xe1];
        for (set, count) in [(sps, None), (pps, Some(1))] {
            config.extend(count);
            config.extend((set.len() as u16).to_be_bytes());
            config.extend(set);
        }
        info(config.into())
    }

    /// What a receiver makes of the payloads.
    fn depacketise(payloads: &[RtpPayload]) -> Vec<Vec<u8>> {
        let mut nals: Vec<Vec<u8>> = Vec::new();
        for RtpPayload { payload, .. } in payloads {
            match payload[0] & 0x1f {
                STAP_A => {
                    let mut rest = &payload[1..];
                    while let Some((length, after)) = rest.split_first_chunk::<2>() {
                        let (nal, after) = after.split_at(u16::from_be_bytes(*length) as usize);
                        nals.push(nal.to_vec());
                        rest = after;
                    }
                }
                FU_A => {
                    if payload[1] & 0x80 != 0 {
                        nals.push(vec![(payload[0] & 0xe0) | (payload[1] & 0x1f)]);
                    }
                    nals.last_mut().unwrap().extend_from_slice(&payload[2..]);
                }
                _ => nals.push(payload.to_vec()),
            }
        }
        nals
    }

    #[test]
    fn keyframe_is_preceded_by_its_parameter_sets_in_one_packet() {
        let (sps, pps) = (nal(0x67, 20), nal(0x68, 6));
        let idr = nal(0x65, 5_000);
        let payloads = h264(&access_unit(&[vec![9, 0xf0], idr.clone()]), Some(&avcc(&sps, &pps)));
        assert_eq!(payloads[0].payload[0], 0x60 | STAP_A);
        assert_eq!(depacketise(&payloads), [sps, pps, idr]);
    }

    #[test]
    fn fragments_are_equal_sized_and_within_the_limit() {
        for bytes in [1_148, 1_149, 1_150, 2_295, 2_296, 60_001] {
            let slice = nal(0x41, bytes);
            let payloads = h264(&access_unit(std::slice::from_ref(&slice)), None);
            assert_eq!(depacketise(&payloads), [slice]);
            let sizes: Vec<usize> = payloads.iter().map(|p| p.payload.len()).collect();
            let (last, others) = sizes.split_last().unwrap();
            assert!(others.iter().all(|size| *size == sizes[0] && *size <= PAYLOAD_BYTES_MAX), "{sizes:?}");
            assert!(*last <= sizes[0], "{sizes:?}");
            assert_eq!(payloads.iter().filter(|p| p.marker).count(), 1);
            assert!(payloads.last().unwrap().marker);
        }
    }

    #[test]
    fn small_slices_share_packets() {
        let slices: Vec<Vec<u8>> = (0..5).map(|_| nal(0x41, 400)).collect();
        let payloads = h264(&access_unit(&slices), None);
        assert_eq!(payloads.len(), 3);
        assert!(payloads.iter().all(|p| p.payload.len() <= PAYLOAD_BYTES_MAX));
        assert_eq!(depacketise(&payloads), slices);
    }

    #[test]
    fn lying_lengths_and_damaged_configs_lose_only_themselves() {
        let mut unit = access_unit(&[nal(0x41, 10)]);
        unit.extend([0, 0, 1, 0, 0x41]);
        assert_eq!(h264(&unit, None).len(), 1);
        assert_eq!(h264(&unit, Some(&info(bytes::Bytes::from_static(&[1, 2, 3, 4, 5, 0xe1, 0xff])))).len(), 1);
        assert!(h264(&[], None).is_empty());
        assert!(h264(&[0, 0, 0, 0], None).is_empty());
    }
}
