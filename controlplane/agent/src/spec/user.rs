//! Which user and groups a container's process has: what pod or image say, looked up in the image where it is a name.
//! Pure: the files of the image come as text.

use k8s_openapi::api::core::v1::{Container, PodSpec};
use std::collections::BTreeSet;

/// User and groups of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct User {
    /// User id.
    pub(crate) uid: u32,
    /// Primary group.
    pub(crate) gid: u32,
    /// More groups, sorted.
    pub(crate) groups: Vec<u32>,
    /// Home folder, when the image says one.
    pub(crate) home: Option<String>,
}

/// The user cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UserError {
    /// The image does not know the name.
    #[error("the image has no user or group {name:?}; set runAsUser to a number")]
    Unknown {
        /// The name.
        name: String,
    },
    /// A negative or too large number.
    #[error("{id} is no user or group id")]
    Range {
        /// The number.
        id: i64,
    },
    /// The pod forbids root.
    #[error("the container would run as root and runAsNonRoot is set; set runAsUser or a user in the image")]
    Root,
}

/// One line of /etc/passwd.
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// The user that a container runs as. `passwd` and `group` are the image's files, empty where it has none.
///
/// # Errors
/// When a name is unknown, a number is out of range, or root is forbidden.
pub(crate) fn resolve_user(
    spec: &PodSpec,
    container: &Container,
    image_user: &str,
    passwd: &str,
    group: &str,
) -> Result<User, UserError> {
    let (own, pods) = (container.security_context.as_ref(), spec.security_context.as_ref());
    let wanted_uid = own.and_then(|s| s.run_as_user).or(pods.and_then(|s| s.run_as_user));
    let wanted_gid = own.and_then(|s| s.run_as_group).or(pods.and_then(|s| s.run_as_group));
    let (image_name, image_group) = match image_user.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (image_user, None),
    };
    let account = match wanted_uid {
        Some(uid) => find(passwd, &id(uid)?.to_string()),
        None => find(passwd, image_name),
    };
    let uid = match (wanted_uid, &account) {
        (Some(uid), _) => id(uid)?,
        (None, Some(account)) => account.uid,
        (None, None) => number(image_name, 0)?,
    };
    let gid = match (wanted_gid, image_group.filter(|_| wanted_uid.is_none()), &account) {
        (Some(gid), _, _) => id(gid)?,
        (None, Some(name), _) => group_id(group, name)?,
        (None, None, Some(account)) => account.gid,
        (None, None, None) => 0,
    };
    if uid == 0 && own.and_then(|s| s.run_as_non_root).or(pods.and_then(|s| s.run_as_non_root)) == Some(true) {
        return Err(UserError::Root);
    }
    let mut groups: BTreeSet<u32> = account.iter().flat_map(|account| member_of(group, account.name)).collect();
    let more = pods.and_then(|s| s.supplemental_groups.as_ref()).into_iter().flatten().copied();
    for more in more.chain(pods.and_then(|s| s.fs_group)) {
        groups.insert(id(more)?);
    }
    let home = account.map(|account| account.home.to_owned()).filter(|home| !home.is_empty());
    Ok(User { uid, gid, groups: groups.into_iter().collect(), home })
}

fn id(id: i64) -> Result<u32, UserError> {
    u32::try_from(id).map_err(|_| UserError::Range { id })
}

fn number(text: &str, absent: u32) -> Result<u32, UserError> {
    if text.is_empty() {
        return Ok(absent);
    }
    text.parse().map_err(|_| UserError::Unknown { name: text.to_owned() })
}

/// The account of that name or number.
fn find<'a>(passwd: &'a str, wanted: &str) -> Option<Account<'a>> {
    let wanted = if wanted.is_empty() { "0" } else { wanted };
    let mut accounts = passwd.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _password, uid, gid, _comment, home, ..] = fields.as_slice() else { return None };
        Some(Account { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
    });
    accounts.find(|account| account.name == wanted || account.uid.to_string() == wanted)
}

fn group_id(groups: &str, name: &str) -> Result<u32, UserError> {
    let named = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    named.map_or_else(|| number(name, 0), Ok)
}

/// Groups that list the user as a member.
fn member_of(groups: &str, user: &str) -> Vec<u32> {
    let lists =
        |line: &&str| line.split(':').nth(3).is_some_and(|members| members.split(',').any(|member| member == user));
    groups.lines().filter(lists).filter_map(|line| line.split(':').nth(2)?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/srv:/sbin/nologin\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlogs:x:70:web,other\n";

    fn resolve(pod: &str, container: &str, image: &str) -> Result<User, UserError> {
        let pod = format!(r#"{{"containers":[],"securityContext":{pod}}}"#);
        let container = format!(r#"{{"name":"a","securityContext":{container}}}"#);
        let well_formed = "because the test's pod is well formed";
        let (pod, container) =
            (serde_json::from_str(&pod).expect(well_formed), serde_json::from_str(&container).expect(well_formed));
        resolve_user(&pod, &container, image, PASSWD, GROUP)
    }

    #[test]
    fn a_name_of_the_image_becomes_its_numbers_and_groups() {
        let user = resolve("{}", "{}", "web").expect("because the image knows web");
        assert_eq!(user, User { uid: 33, gid: 34, groups: vec![70], home: Some("/srv".into()) });
        assert_eq!(resolve("{}", "{}", "web:logs").map(|user| user.gid), Ok(70));
    }

    #[test]
    fn the_container_wins_over_the_pod_and_both_over_the_image() {
        let user = resolve(r#"{"runAsUser":5,"runAsGroup":6,"fsGroup":7}"#, r#"{"runAsUser":8}"#, "web:logs");
        assert_eq!(user, Ok(User { uid: 8, gid: 6, groups: vec![7], home: None }));
        assert_eq!(resolve(r#"{"runAsUser":33}"#, "{}", "").map(|user| user.gid), Ok(34));
    }

    #[test]
    fn no_user_is_root_unless_that_is_forbidden() {
        assert_eq!(resolve("{}", "{}", "").map(|user| user.uid), Ok(0));
        assert_eq!(resolve(r#"{"runAsNonRoot":true}"#, "{}", ""), Err(UserError::Root));
        assert!(resolve(r#"{"runAsNonRoot":true}"#, "{}", "web").is_ok());
    }

    #[test]
    fn unknown_names_and_impossible_numbers_are_refused() {
        assert_eq!(resolve("{}", "{}", "nobody"), Err(UserError::Unknown { name: "nobody".into() }));
        assert_eq!(resolve(r#"{"runAsUser":-1}"#, "{}", ""), Err(UserError::Range { id: -1 }));
    }
}
