//! Why a bucket did not do what it was asked to. In: whatever the SDK reports. Out: one of few faults that a caller or an
//! operator acts on, and the details. Deliberately absent: credentials, in any form.

use std::{error::Error, time::Duration};

use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nobody answers, or not in time.
    Unreachable,
    NoBucket,
    Denied,
    /// None are there, or the server does not know them.
    Credentials,
    Region,
    Clock,
    /// Too many requests.
    Busy,
    /// The server's own fault.
    Server,
    NoObject,
    NoUpload,
    /// No byte of the object is in the range that was asked for.
    Range,
    /// The server does not know this request.
    Unsupported,
    /// The file that was to be sent.
    Local,
    Other,
}

#[derive(Debug, thiserror::Error)]
#[error("{action} {bucket}/{key}: {}{detail}", .fault.sentence())]
pub struct BucketError {
    pub(super) action: &'static str,
    pub(super) bucket: String,
    pub(super) key: String,
    pub fault: Fault,
    pub(super) detail: String,
}

impl BucketError {
    /// It may be better in a moment, with nobody doing anything: the SDK learns the server's clock from its refusal.
    pub fn is_passing(&self) -> bool {
        matches!(self.fault, Fault::Unreachable | Fault::Busy | Fault::Server | Fault::Clock)
    }
}

impl Fault {
    fn sentence(self) -> &'static str {
        match self {
            Self::Unreachable => "the server can't be reached",
            Self::NoBucket => "there is no such bucket",
            Self::Denied => "the credentials don't allow this",
            Self::Credentials => "no valid credentials",
            Self::Region => "the bucket is in another region",
            Self::Clock => "this machine's clock is too far from the server's",
            Self::Busy => "the server asks to slow down",
            Self::Server => "the server failed",
            Self::NoObject => "there is no such object",
            Self::NoUpload => "there is no such multipart upload",
            Self::Range => "the object has nothing in that range",
            Self::Unsupported => "the server does not support this",
            Self::Local => "the file can't be read",
            Self::Other => "refused",
        }
    }

    /// By the error code, else by the status: answers to HEAD have no code. As in "Error responses" of the Amazon S3 API
    /// Reference, and as other servers spell them.
    fn of(code: Option<&str>, status: u16) -> Self {
        match code.unwrap_or_default() {
            "NoSuchBucket" => Self::NoBucket,
            "AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "Forbidden" => Self::Denied,
            "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "ExpiredToken"
            | "InvalidToken"
            | "TokenRefreshRequired"
            | "NotSignedUp" => Self::Credentials,
            "PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed" | "IncorrectEndpoint" => {
                Self::Region
            }
            "RequestTimeTooSkewed" | "RequestExpired" => Self::Clock,
            "SlowDown" | "ServiceUnavailable" | "Throttling" | "TooManyRequests" | "RequestLimitExceeded" => Self::Busy,
            "NoSuchKey" | "NotFound" => Self::NoObject,
            "NoSuchUpload" => Self::NoUpload,
            "InvalidRange" => Self::Range,
            "NotImplemented" | "MethodNotAllowed" => Self::Unsupported,
            "RequestTimeout" => Self::Unreachable,
            _ => match status {
                301 | 307 => Self::Region,
                401 | 403 => Self::Denied,
                404 => Self::NoObject,
                405 | 501 => Self::Unsupported,
                416 => Self::Range,
                429 | 503 => Self::Busy,
                500.. => Self::Server,
                _ => Self::Other,
            },
        }
    }
}

/// Waits for the answer as long as that makes sense, and explains what came.
pub(super) async fn answer<T, E>(
    limit: Duration,
    request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
) -> Result<T, (Fault, String)>
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match tokio::time::timeout(limit, request).await {
        Ok(answer) => answer.map_err(|error| explain(&error)),
        Err(_) => Err((Fault::Unreachable, format!(": no answer within {} s", limit.as_secs()))),
    }
}

fn explain<E: ProvideErrorMetadata + Error + 'static>(error: &SdkError<E, HttpResponse>) -> (Fault, String) {
    let status = error.raw_response().map(|response| response.status().as_u16());
    match (error, status) {
        (SdkError::ServiceError(service), Some(status)) => {
            let fault = Fault::of(service.err().code(), status);
            let header = |name| error.raw_response().and_then(|response| response.headers().get(name));
            let region = header("x-amz-bucket-region").filter(|_| fault == Fault::Region);
            let mut detail = region.map(|region| format!(", {region:?}")).unwrap_or_default();
            detail += &format!(" ({status}");
            for part in [service.err().code(), service.err().message()].into_iter().flatten() {
                detail += &format!(", {}", shown(part));
            }
            (fault, detail + ")")
        }
        // An answer that makes no sense: a proxy's page, or half of the server's own.
        (_, Some(status)) => (Fault::of(None, status.max(500)), format!(" ({status}): {}", chain(error))),
        _ => {
            let chain = chain(error);
            let unnamed = chain.to_lowercase().contains("credential");
            (if unnamed { Fault::Credentials } else { Fault::Unreachable }, format!(": {chain}"))
        }
    }
}

/// An error's causes down to the first one; the SDK's outer ones say nothing.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut causes = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = shown(&error.to_string());
        if causes.last() != Some(&text) {
            causes.push(text);
        }
        cause = error.source();
    }
    if causes.is_empty() { shown(&error.to_string()) } else { causes.join(": ") }
}

/// What a server says goes to logs and pages: one line of it.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_come_before_statuses() {
        for (code, status, fault) in [
            (Some("NoSuchBucket"), 404, Fault::NoBucket),
            (Some("SignatureDoesNotMatch"), 403, Fault::Credentials),
            (Some("RequestTimeTooSkewed"), 403, Fault::Clock),
            (Some("AuthorizationHeaderMalformed"), 400, Fault::Region),
            (Some("SlowDown"), 503, Fault::Busy),
            (Some("InternalError"), 500, Fault::Server),
            (Some("NoSuchUpload"), 404, Fault::NoUpload),
            (Some("EntityTooLarge"), 400, Fault::Other),
            (None, 301, Fault::Region),
            (None, 403, Fault::Denied),
            (None, 404, Fault::NoObject),
            (None, 503, Fault::Busy),
            (None, 502, Fault::Server),
            (None, 501, Fault::Unsupported),
        ] {
            assert_eq!(Fault::of(code, status), fault, "{code:?} {status}");
        }
    }

    #[test]
    fn what_a_server_says_stays_on_one_line() {
        assert_eq!(shown("a\r\nb\x1b[1m"), "ab[1m");
        assert_eq!(shown(&"x".repeat(9000)).len(), 200);
    }
}
