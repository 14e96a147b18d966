//! Who this process is among the nodes.
//!
//! In: the data directory, where the file `node` keeps the id and how often it was started. Out: an [`Identity`]. The id
//! stays over restarts; the incarnation is another one each time and grows, so that whoever hears of two lives of a
//! node knows the later one.

use std::{
    fmt,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::rand;

const FILE: &str = "node";
/// Of the hostname: ids stand in logs and in URLs.
const HOSTNAME_LENGTH_MAX: usize = 40;

/// Names a node over its restarts: `<hostname>-<6 hex digits>`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(Arc<str>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub id: NodeId,
    /// Names this life of the node. A later one is higher.
    pub incarnation: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("the node's id in {}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{} does not hold a node's id and the count of its starts; remove it for a new one", path.display())]
    Content { path: PathBuf },
    #[error("no random number could be had")]
    Random,
}

impl Identity {
    /// Reads who this is, or decides it at the first start, and counts the start.
    pub fn load(data: &Path) -> Result<Self, IdentityError> {
        let path = data.join(FILE);
        let failed = |source| IdentityError::File { path: path.clone(), source };
        let (id, starts) = match std::fs::read_to_string(&path) {
            Ok(text) => parse(&text).ok_or_else(|| IdentityError::Content { path: path.clone() })?,
            Err(error) if error.kind() == ErrorKind::NotFound => (new_id()?, 0),
            Err(error) => return Err(failed(error)),
        };
        // Databases know signed numbers only.
        let starts = starts.wrapping_add(1) & (u32::MAX >> 1);
        // Whole or not at all, and for good before anybody hears of it.
        let fresh = path.with_extension("new");
        let write = || {
            let mut file = std::fs::File::create(&fresh)?;
            writeln!(file, "{id} {starts}")?;
            file.sync_all()?;
            std::fs::rename(&fresh, &path)?;
            std::fs::File::open(data)?.sync_all()
        };
        write().map_err(failed)?;
        // The lower half tells apart the machines that were started from copies of one disk.
        let incarnation = u64::from(starts) << 32 | u64::from(u32::from_be_bytes(random()?));
        Ok(Self { id, incarnation })
    }
}

fn parse(text: &str) -> Option<(NodeId, u32)> {
    let (id, starts) = text.trim_end().split_once(' ')?;
    (!id.is_empty()).then_some((NodeId::from(id), starts.parse().ok()?))
}

fn new_id() -> Result<NodeId, IdentityError> {
    let hostname = rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
    let [a, b, c]: [u8; 3] = random()?;
    Ok(NodeId::from(&*format!("{}-{a:02x}{b:02x}{c:02x}", tame(&hostname))))
}

/// The first label of a hostname, in characters that need no quoting anywhere.
fn tame(hostname: &str) -> String {
    let label = hostname.split('.').next().unwrap_or_default();
    let tame: String = label.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    let tame = tame.trim_matches('-');
    if tame.is_empty() { "node".to_owned() } else { tame.chars().take(HOSTNAME_LENGTH_MAX).collect() }
}

fn random<const N: usize>() -> Result<[u8; N], IdentityError> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| IdentityError::Random)?;
    Ok(bytes)
}

impl NodeId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for NodeId {
    fn from(id: &str) -> Self {
        Self(id.into())
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("headwater-identity-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn the_id_stays_and_the_incarnation_grows() {
        let data = folder("stays");
        let lives: Vec<_> = (0..3).map(|_| Identity::load(&data).unwrap()).collect();
        assert!(lives.windows(2).all(|two| two[0].id == two[1].id), "{lives:?}");
        assert!(lives.windows(2).all(|two| two[0].incarnation < two[1].incarnation), "{lives:?}");
        let (host, digits) = lives[0].id.as_str().rsplit_once('-').unwrap();
        assert!(!host.is_empty());
        assert!(digits.len() == 6 && digits.bytes().all(|b| b.is_ascii_hexdigit()), "{digits}");
        std::fs::remove_dir_all(data).unwrap();
    }

    #[test]
    fn machines_with_copies_of_one_disk_are_told_apart() {
        let (one, other) = (folder("one"), folder("other"));
        Identity::load(&one).unwrap();
        std::fs::copy(one.join(FILE), other.join(FILE)).unwrap();
        let (one_life, other_life) = (Identity::load(&one).unwrap(), Identity::load(&other).unwrap());
        assert_eq!(one_life.id, other_life.id);
        assert_ne!(one_life.incarnation, other_life.incarnation);
        [one, other].into_iter().for_each(|data| std::fs::remove_dir_all(data).unwrap());
    }

    #[test]
    fn a_file_that_holds_something_else_is_refused_by_name() {
        let data = folder("broken");
        for text in ["", "x", " 3", "x y"] {
            std::fs::write(data.join(FILE), text).unwrap();
            let error = Identity::load(&data).unwrap_err().to_string();
            assert!(error.contains(&*data.to_string_lossy()), "{error}");
        }
        std::fs::remove_dir_all(data).unwrap();
    }

    #[test]
    fn hostnames_are_tamed() {
        for (hostname, expected) in [("web1.example.org", "web1"), ("", "node"), ("-.x", "node"), ("a_b c", "abc")] {
            assert_eq!(tame(hostname), expected);
        }
        assert_eq!(tame(&"x".repeat(100)).len(), HOSTNAME_LENGTH_MAX);
    }
}
