//! One request to whoever wants to know. In: an address, headers, a body. Out: that it was taken in (a status of 2xx), or why
//! not, within a limit of time. Nobody is followed to another address, and of an answer no more than its beginning is read.

use std::{io, time::Duration};

use axum::{
    body::{Body, Bytes, to_bytes},
    http::{HeaderMap, Method, Request, StatusCode},
};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{ClientConfig, RootCertStore};

/// From the name's resolution to the status of the answer.
pub(super) const LIMIT: Duration = Duration::from_secs(10);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// For what comes after the status.
const REST_LIMIT: Duration = Duration::from_secs(1);
const IDLE_LIMIT: Duration = Duration::from_secs(15);
/// Of an answer. Who says more is hung up on, which changes nothing.
const ANSWER_BYTES_MAX: usize = 4 << 10;
const HEAD_BYTES_MAX: usize = 32 << 10;

#[derive(Debug, thiserror::Error)]
pub(super) enum PostError {
    #[error("no answer within {} s", .0.as_secs())]
    Late(Duration),
    #[error("no connection: {0}")]
    Unreachable(String),
    #[error("answered {0}, and redirects are not followed")]
    Redirect(StatusCode),
    #[error("answered {0}")]
    Refused(StatusCode),
    #[error("no request can be made of that: {0}")]
    Address(String),
}

impl PostError {
    /// There is somebody, and that took no longer than it may.
    pub(super) fn answered(&self) -> bool {
        matches!(self, Self::Redirect(_) | Self::Refused(_) | Self::Address(_))
    }
}

pub(super) struct Post {
    client: Client<HttpsConnector<HttpConnector>, Body>,
    limit: Duration,
}

impl Post {
    pub(super) fn new(limit: Duration) -> Self {
        let tls = ClientConfig::builder();
        // Those of the system; SSL_CERT_FILE names others.
        let tls = match tls.with_native_roots() {
            Ok(tls) => tls.with_no_client_auth(),
            Err(error) => {
                tracing::warn!(%error, "this machine has no certificates of authorities: webhooks by https:// will fail");
                ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth()
            }
        };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_LIMIT.min(limit)));
        let https =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_LIMIT)
            .pool_max_idle_per_host(1)
            .http1_max_buf_size(HEAD_BYTES_MAX)
            .build(https);
        Self { client, limit }
    }

    pub(super) async fn send(&self, url: &str, headers: HeaderMap, body: Bytes) -> Result<(), PostError> {
        let mut request = Request::new(Body::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = url.parse().map_err(|error| PostError::Address(format!("{error}")))?;
        *request.headers_mut() = headers;
        let answer = match tokio::time::timeout(self.limit, self.client.request(request)).await {
            Ok(answer) => answer.map_err(|error| PostError::Unreachable(root(&error)))?,
            Err(_) => return Err(PostError::Late(self.limit)),
        };
        let status = answer.status();
        // Read, so that the connection can be used again and nobody is cut short. What counts was said before.
        let rest = to_bytes(Body::new(answer.into_body()), ANSWER_BYTES_MAX);
        let _ = tokio::time::timeout(REST_LIMIT, rest).await;
        match status {
            status if status.is_success() => Ok(()),
            status if status.is_redirection() => Err(PostError::Redirect(status)),
            status => Err(PostError::Refused(status)),
        }
    }
}

/// What it comes from: the rest says only that there was an error.
fn root(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match cause.downcast_ref::<io::Error>() {
        // Without the number of the system.
        Some(error) if error.raw_os_error().is_some() => error.kind().to_string(),
        _ => cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// One that says this to everybody, again and again if `forever`, and hangs up.
    async fn receiver(says: &'static str, forever: bool) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let _ = connection.read(&mut [0; 4096]).await;
                    while connection.write_all(says.as_bytes()).await.is_ok() && forever {}
                });
            }
        });
        format!("http://{address}/hook?a=1")
    }

    async fn send(url: &str) -> Result<(), PostError> {
        // As the process does at its start.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let post = Post::new(Duration::from_secs(2));
        post.send(url, HeaderMap::new(), Bytes::from_static(b"{}")).await
    }

    #[tokio::test]
    async fn what_is_taken_in_is_told_from_everything_else() {
        let url = receiver("HTTP/1.1 204 No Content\r\n\r\n", false).await;
        send(&url).await.unwrap();
        for (says, problem, answered) in [
            ("HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\nno", "answered 500", true),
            ("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", "redirects", true),
            ("SSH-2.0-OpenSSH_9.2\r\n", "no connection", false),
            ("", "no connection", false),
        ] {
            let error = send(&receiver(says, false).await).await.unwrap_err();
            assert!(error.to_string().contains(problem) && error.answered() == answered, "{says:?}: {error}");
        }
        let error = send("http://127.0.0.1:1/").await.unwrap_err();
        assert!(error.to_string().contains("refused") && !error.answered(), "{error}");
    }

    #[tokio::test]
    async fn who_never_stops_is_hung_up_on_and_who_never_begins_is_not_waited_for() {
        let begun = Instant::now();
        send(&receiver("HTTP/1.1 200 OK\r\n\r\nmore and more and more", true).await).await.unwrap();
        let endless_head = receiver("HTTP/1.1 200 OK\r\nx: more and more and more\r\n", false).await;
        let error = send(&endless_head).await.unwrap_err();
        assert!(!error.answered(), "{error}");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let error = send(&format!("http://{}/", listener.local_addr().unwrap())).await.unwrap_err();
        assert!(matches!(error, PostError::Late(_)), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    }
}
