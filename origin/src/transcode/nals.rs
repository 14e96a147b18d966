//! What x264 writes, in the form the hall keeps. In: access units between start codes. Out: the canonical payload
//! without what the hall stores elsewhere or not at all. Deliberately absent: everything else about H.264, which is
//! in `common/media`.

use bytes::{BufMut, Bytes};
use headwater_common::media::{
    Codec, ConfigError, Info, h264,
    nal::{ParameterSets, annex_b_units},
};

const SEI: u8 = 6;
const SPS: u8 = 7;
const PPS: u8 = 8;
const DELIMITER: u8 = 9;
/// user_data_unregistered (H.264 D.1.7): x264 prints its settings into every stream. Captions are another type.
const UNREGISTERED: u8 = 5;

pub(super) fn canonical(stream: &[u8]) -> Bytes {
    let mut payload = Vec::with_capacity(stream.len() + 16);
    for unit in annex_b_units(stream) {
        let unit = &stream[unit];
        match unit {
            [header, ..] if matches!(header & 0x1f, SPS | PPS | DELIMITER) => {}
            [header, UNREGISTERED, ..] if header & 0x1f == SEI => {}
            _ => {
                payload.put_u32(unit.len() as u32);
                payload.extend_from_slice(unit);
            }
        }
    }
    payload.into()
}

/// From the parameter sets in an encoder's header.
pub(super) fn info(header: &[u8]) -> Result<Info, ConfigError> {
    let mut sets = ParameterSets::default();
    for unit in annex_b_units(header) {
        let unit = Bytes::copy_from_slice(&header[unit]);
        match unit.first().map(|header| header & 0x1f) {
            Some(SPS) => sets.sps.push(unit),
            Some(PPS) => sets.pps.push(unit),
            _ => {}
        }
    }
    Info::from_config(Codec::H264, h264::build_record(&sets)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pictures_and_captions_stay() {
        let stream = [
            &[0, 0, 0, 1, 0x67, 1][..],
            &[0, 0, 0, 1, 0x68, 2],
            &[0, 0, 1, 0x06, 5, 1, 9],
            &[0, 0, 1, 0x06, 4, 1, 9],
            &[0, 0, 1, 0x65, 7, 7],
        ]
        .concat();
        assert_eq!(*canonical(&stream), [0, 0, 0, 4, 0x06, 4, 1, 9, 0, 0, 0, 3, 0x65, 7, 7]);
        assert!(info(&stream).is_err(), "no real parameter set");
    }
}
