//! A real S3 server (Ceph's), one for all tests, and what is in its buckets as another client than ours sees it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use aws_sdk_s3::{
    Client,
    config::{BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation},
    types::{CorsConfiguration, CorsRule, Grant},
};
use serde_json::Value;

use super::{Process, s, scratch, server::free_address};

pub(crate) const ACCESS_KEY: &str = "AK";
pub(crate) const SECRET_KEY: &str = "SKSKSKSK";

/// One bucket, which belongs to one test.
pub(crate) struct Bucket {
    pub(crate) name: String,
    pub(crate) server: SocketAddr,
    client: Client,
    runtime: tokio::runtime::Runtime,
}

/// Where the server listens; it is started by whoever needs it first and ends with this process.
fn server() -> SocketAddr {
    static SERVER: OnceLock<(SocketAddr, Process)> = OnceLock::new();
    let start = || {
        let dir = scratch("s3");
        let mut script = Command::new(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/servers/radosgw.sh"));
        let ports: [SocketAddr; 3] = std::array::from_fn(|_| free_address());
        script.arg(dir).args(ports.map(|address| address.port().to_string()));
        let mut process = Process::start("radosgw", &mut script);
        process.line("the S3 server", s(180), |line| (line == "ready").then_some(()));
        (ports[0], process)
    };
    // On a thread of its own: it does not belong to the test that happens to start it.
    SERVER.get_or_init(|| thread::spawn(start).join().expect("the S3 server starts; tests/setup.sh installs it")).0
}

impl Bucket {
    /// A new, empty bucket.
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let server = server();
        let credentials = Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "tests");
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .credentials_provider(credentials)
            .region(Region::new("us-east-1"))
            .endpoint_url(format!("http://{server}"))
            .force_path_style(true)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let name = format!("bucket-{}", COUNT.fetch_add(1, Relaxed));
        let bucket = Self { name, server, client: Client::from_conf(config.build()), runtime };
        bucket.create();
        bucket
    }

    pub(crate) fn create(&self) {
        let create = self.client.create_bucket().bucket(&self.name);
        self.runtime.block_on(create.send()).expect("a bucket");
    }

    /// With all that is in it.
    pub(crate) fn remove(&self) {
        for (key, _) in self.objects() {
            self.delete(&key);
        }
        self.runtime.block_on(self.client.delete_bucket().bucket(&self.name).send()).expect("no bucket any more");
    }

    pub(crate) fn put(&self, key: &str, text: &'static str) {
        let put = self.client.put_object().bucket(&self.name).key(key);
        self.runtime.block_on(put.body(text.as_bytes().to_vec().into()).send()).expect("an object");
    }

    pub(crate) fn delete(&self, key: &str) {
        self.runtime.block_on(self.client.delete_object().bucket(&self.name).key(key).send()).expect("deleted");
    }

    /// Keys and sizes, by key.
    pub(crate) fn objects(&self) -> Vec<(String, u64)> {
        let list = self.client.list_objects_v2().bucket(&self.name);
        let listed = self.runtime.block_on(list.send()).expect("a listing").contents.unwrap_or_default();
        listed.into_iter().map(|object| (object.key.expect("a key"), object.size.expect("a size") as u64)).collect()
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.objects().into_iter().map(|(key, _)| key).collect()
    }

    /// Keys of uploads in parts that are neither complete nor aborted.
    pub(crate) fn open_uploads(&self) -> Vec<String> {
        let list = self.client.list_multipart_uploads().bucket(&self.name);
        let listed = self.runtime.block_on(list.send()).expect("a listing").uploads.unwrap_or_default();
        listed.into_iter().filter_map(|upload| upload.key).collect()
    }

    pub(crate) fn begin_upload(&self, key: &str) {
        let begin = self.client.create_multipart_upload().bucket(&self.name).key(key);
        self.runtime.block_on(begin.send()).expect("an upload");
    }

    pub(crate) fn download(&self, key: &str, to: &Path) {
        let bytes = self.runtime.block_on(async {
            let object = self.client.get_object().bucket(&self.name).key(key).send().await.expect("the object");
            object.body.collect().await.expect("all of it").into_bytes()
        });
        std::fs::write(to, bytes).expect("write the download");
    }

    /// How an object is encrypted, by which key, its class, and who may do what with it.
    pub(crate) fn kept(&self, key: &str) -> [String; 4] {
        let head = self.client.head_object().bucket(&self.name).key(key);
        let head = self.runtime.block_on(head.send()).expect("the object");
        let acl = self.client.get_object_acl().bucket(&self.name).key(key);
        let acl = self.runtime.block_on(acl.send()).expect("its ACL");
        let mut grants: Vec<_> = acl.grants.unwrap_or_default().into_iter().map(grant).collect();
        grants.sort();
        let (sse, class) = (head.server_side_encryption, head.storage_class);
        [
            sse.map_or_else(String::new, |sse| sse.as_str().to_owned()),
            head.ssekms_key_id.unwrap_or_default(),
            class.map_or_else(String::new, |class| class.as_str().to_owned()),
            grants.join(", "),
        ]
    }

    /// Pages may play what is in it, by the rule that README gives.
    pub(crate) fn allow_pages(&self) {
        let json = include_str!("../../../README.md").split("```json\n").nth(1).expect("an example in README");
        let said: Value = serde_json::from_str(json.split("```").next().unwrap_or_default()).expect("JSON");
        let words = |rule: &Value, name: &str| -> Vec<String> {
            let list = rule[name].as_array().unwrap_or_else(|| panic!("{name} in {rule}"));
            list.iter().map(|word| word.as_str().expect("a word").to_owned()).collect()
        };
        let rules = said["CORSRules"].as_array().expect("rules").iter().map(|rule| {
            let built = CorsRule::builder()
                .set_allowed_origins(Some(words(rule, "AllowedOrigins")))
                .set_allowed_methods(Some(words(rule, "AllowedMethods")))
                .set_allowed_headers(Some(words(rule, "AllowedHeaders")))
                .set_expose_headers(Some(words(rule, "ExposeHeaders")))
                .set_max_age_seconds(rule["MaxAgeSeconds"].as_i64().map(|seconds| seconds as i32));
            built.build().expect("a rule")
        });
        let rules = CorsConfiguration::builder().set_cors_rules(Some(rules.collect())).build().expect("rules");
        let put = self.client.put_bucket_cors().bucket(&self.name).cors_configuration(rules);
        self.runtime.block_on(put.send()).expect("the rule taken");
    }

    /// Settings for a server that keeps its recordings here, by way of `endpoint`.
    pub(crate) fn settings(&self, endpoint: &str) -> String {
        format!(
            "[store.s3]\nbucket = \"{}\"\nendpoint = \"{endpoint}\"\npath_style = true\naccess_key = \"{ACCESS_KEY}\"\n\
             secret_key = \"{SECRET_KEY}\"\n",
            self.name
        )
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.server)
    }
}

/// Who, and what he may do.
fn grant(grant: Grant) -> String {
    let grantee = grant.grantee.expect("somebody");
    let who = grantee.uri.or(grantee.id).expect("a name");
    format!("{} {}", who.rsplit('/').next().unwrap_or_default(), grant.permission.expect("something").as_str())
}
