use rustls::{ContentType, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::cluster::tls::{
    Credentials,
    tests::{SECRET, with_secret},
};

/// Not a multiple of anything.
const FILM_BYTES: usize = 3_000_017;
/// Of what lies between the two: neither writes nor reads all that it would like to.
const PIPE_BYTES: usize = 5_003;
const WIDE_BYTES: usize = 1 << 20;

fn credentials() -> Credentials {
    with_secret(SECRET)
}

fn film() -> Vec<u8> {
    (0..FILM_BYTES as u32)
        .flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes())
        .take(FILM_BYTES)
        .collect()
}

async fn two(bytes: usize) -> (Dialled<DuplexStream>, Accepted<DuplexStream>) {
    let (here, there) = duplex(bytes);
    let credentials = credentials();
    let (client, server) = tokio::join!(dial(credentials.client(), here), accept(credentials.server(), there));
    (client.unwrap(), server.unwrap())
}

/// Each sends the other a film and hears it to its end.
async fn exchange(one: impl AsyncRead + AsyncWrite, other: impl AsyncRead + AsyncWrite) {
    tokio::join!(talk(one), talk(other));
}

async fn talk(stream: impl AsyncRead + AsyncWrite) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (film, mut heard) = (film(), Vec::new());
    let tell = async {
        writer.write_all(&film).await?;
        writer.shutdown().await
    };
    let (told, read) = tokio::join!(tell, reader.read_to_end(&mut heard));
    told.and(read.map(drop)).unwrap();
    assert!(heard == film, "{} bytes", heard.len());
}

#[tokio::test]
async fn nodes_understand_each_other() {
    let (client, server) = two(PIPE_BYTES).await;
    exchange(client, server).await;
}

#[tokio::test]
async fn a_client_of_rustls_itself_is_understood() {
    let (here, there) = duplex(PIPE_BYTES);
    let connect = TlsConnector::from(credentials().client()).connect(tls::name(), here);
    let (client, server) = tokio::join!(connect, accept(credentials().server(), there));
    exchange(client.unwrap(), server.unwrap()).await;
}

/// As nodes did before, it gives tickets that nobody wants.
#[tokio::test]
async fn a_server_of_rustls_itself_is_understood() {
    let (here, there) = duplex(PIPE_BYTES);
    let mut server = ServerConfig::clone(&credentials().server());
    server.send_tls13_tickets = 4;
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let (client, server) = tokio::join!(dial(credentials().client(), here), acceptor.accept(there));
    exchange(client.unwrap(), server.unwrap()).await;
}

#[tokio::test]
async fn keys_are_replaced_before_they_have_sealed_too_much() {
    let (here, there) = duplex(PIPE_BYTES);
    let connect = TlsConnector::from(credentials().client()).connect(tls::name(), here);
    let (client, server) = tokio::join!(connect, accept(credentials().server(), there));
    let mut server = server.unwrap();
    server.keys.limit(7);
    exchange(client.unwrap(), server).await;
}

#[tokio::test]
async fn the_other_side_may_replace_its_keys() {
    let (here, there) = duplex(WIDE_BYTES);
    let connect = TlsConnector::from(credentials().client()).connect(tls::name(), here);
    let (client, server) = tokio::join!(connect, accept(credentials().server(), there));
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    for number in 0..5_u8 {
        client.get_mut().1.refresh_traffic_keys().unwrap();
        client.write_all(&[number; 100]).await.unwrap();
        let mut heard = [0; 100];
        server.read_exact(&mut heard).await.unwrap();
        assert_eq!((heard, server.keys.opened()), ([number; 100], 1));
    }
    exchange(client, server).await;
}

#[tokio::test]
async fn who_is_asked_replaces_its_keys_with_what_it_says_next() {
    let (mut client, mut server) = two(WIDE_BYTES).await;
    client.update_keys(true).unwrap();
    client.write_all(b"new keys, please").await.unwrap();
    let mut heard = [0; 16];
    server.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"new keys, please");
    for _ in 0..3 {
        server.write_all(b"here they are").await.unwrap();
    }
    let mut heard = [0; 39];
    client.read_exact(&mut heard).await.unwrap();
    assert_eq!(client.keys.opened(), 3);
    exchange(client, server).await;
}

#[tokio::test]
async fn what_comes_right_behind_the_handshake_is_heard() {
    let (here, there) = duplex(WIDE_BYTES);
    let hello = async {
        let mut client = dial(credentials().client(), here).await.unwrap();
        // Nothing waits in between, so the server finds both at once.
        client.write_all(&film()[..100_000]).await.unwrap();
        client
    };
    let (mut client, server) = tokio::join!(hello, accept(credentials().server(), there));
    let mut server = server.unwrap();
    assert!(!server.early.is_empty());
    let mut heard = vec![0; 100_000];
    server.read_exact(&mut heard).await.unwrap();
    assert!(heard == film()[..100_000]);
    server.write_all(b"so it was").await.unwrap();
    let mut heard = [0; 9];
    client.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"so it was");
}

/// All that one side has said, as it lies on the wire; and the side that has not heard it.
async fn said(film: &[u8]) -> (Vec<u8>, Accepted<DuplexStream>, DuplexStream) {
    let (here, mut between) = duplex(WIDE_BYTES);
    let (mut beyond, there) = duplex(WIDE_BYTES);
    let credentials = credentials();
    let (client, server) = (dial(credentials.client(), here), accept(credentials.server(), there));
    let met = async { tokio::join!(client, server) };
    let (client, server) = tokio::select! {
        met = met => met,
        _ = tokio::io::copy_bidirectional(&mut between, &mut beyond) => unreachable!("nobody has gone"),
    };
    client.unwrap().write_all(film).await.unwrap();
    let mut wire = Vec::new();
    between.read_to_end(&mut wire).await.unwrap();
    (wire, server.unwrap(), beyond)
}

#[tokio::test]
async fn whatever_is_changed_on_the_way_is_noticed() {
    const FILM: &[u8] = &[7; 40_000];
    for at in [0, 1, 2, 3, 4, 5, 6, 5_000, 16_389, 16_405, 16_406, 16_409, 16_411, 30_000, 40_060] {
        let (mut wire, mut server, mut beyond) = said(FILM).await;
        assert_eq!(wire.len(), 40_000 + 3 * (5 + 1 + 16));
        wire[at] ^= 1;
        beyond.write_all(&wire).await.unwrap();
        drop(beyond);
        let mut heard = Vec::new();
        let error = server.read_to_end(&mut heard).await.unwrap_err();
        // A record that has become longer is waited for, and never comes.
        let noticed = matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof);
        assert!(noticed, "{at}: {error:?}");
        let whole = at / 16_406 * PLAIN_BYTES_MAX;
        assert!(heard.len() == whole && FILM.starts_with(&heard), "{at}: {}", heard.len());
    }
}

#[tokio::test]
async fn records_come_once_and_in_their_order() {
    for order in [[0, 0, 1], [1, 0, 2], [0, 2, 1]] {
        let (wire, mut server, mut beyond) = said(&[7; 3 * PLAIN_BYTES_MAX]).await;
        let records: Vec<&[u8]> = wire.chunks(16_406).collect();
        for record in order {
            beyond.write_all(records[record]).await.unwrap();
        }
        let error = server.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{order:?}: {error}");
    }
}

#[tokio::test]
async fn an_end_that_nobody_has_told_is_no_end() {
    let (wire, mut server, mut beyond) = said(b"the beginning of").await;
    beyond.write_all(&wire).await.unwrap();
    drop(beyond);
    let mut heard = Vec::new();
    assert_eq!(server.read_to_end(&mut heard).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(heard, b"the beginning of");

    let (mut client, mut server) = two(PIPE_BYTES).await;
    client.shutdown().await.unwrap();
    assert_eq!(server.read_to_end(&mut heard).await.unwrap(), 0);
    // The other way is open still.
    server.write_all(b"one more thing").await.unwrap();
    server.shutdown().await.unwrap();
    client.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"the beginning ofone more thing");
}

#[tokio::test]
async fn nonsense_is_named_on_both_sides() {
    // What is told, in which order; what is said of it here, and over there.
    type Told = &'static [(ContentType, &'static [u8])];
    let cases: [(Told, &str, &str); 8] = [
        (&[(ContentType::Alert, &[2, 80])], "InternalError", "end of file"),
        (&[(ContentType::Alert, &[2])], "TooShort", "DecodeError"),
        (&[(ContentType::Handshake, &[24, 0, 0, 1, 2])], "after the handshake", "DecodeError"),
        (&[(ContentType::Handshake, &[1, 0, 0, 0])], "after the handshake", "DecodeError"),
        (&[(ContentType::Handshake, &[4, 255, 0, 0])], "TooLarge", "DecodeError"),
        (&[(ContentType::Handshake, &[24, 0, 0, 1, 0, 4])], "KeyEpoch", "UnexpectedMessage"),
        (&[(ContentType::Handshake, &[4]), (ContentType::ApplicationData, b"x")], "Interleaved", "UnexpectedMessage"),
        (&[(ContentType::Heartbeat, &[1])], "ContentType", "DecodeError"),
    ];
    for (told, here, there) in cases {
        let (mut client, mut server) = two(WIDE_BYTES).await;
        for &(what, message) in told {
            client.seal(what, message.into()).unwrap();
        }
        client.flush().await.unwrap();
        let error = server.read_u8().await.unwrap_err().to_string();
        assert!(error.contains(here), "{told:?}: {error}");
        drop(server);
        let error = client.read_u8().await.unwrap_err().to_string();
        assert!(error.contains(there), "{told:?}: {error}");
    }
}
