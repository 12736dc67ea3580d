//! Certificates made by `openssl`, and TLS connections that trust their authority.

use std::{fs, net::SocketAddr, path::PathBuf, process::Command, sync::Arc};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use super::PATIENCE;

/// An authority, and the files of one server's certificate, which can be another from one moment to the next.
pub struct Authority {
    directory: TempDir,
}

impl Authority {
    pub fn new() -> Self {
        let authority = Self { directory: tempfile::tempdir().expect("a directory") };
        let settings = "[req]\ndistinguished_name = name\n[name]\n\
            [ca]\nbasicConstraints = critical, CA:TRUE\nkeyUsage = critical, keyCertSign, cRLSign\n\
            subjectKeyIdentifier = hash\n\
            [server]\nbasicConstraints = critical, CA:FALSE\nkeyUsage = critical, digitalSignature\n\
            extendedKeyUsage = serverAuth\nauthorityKeyIdentifier = keyid\n\
            subjectAltName = IP:127.0.0.1, DNS:localhost\n";
        fs::write(authority.path("openssl.cnf"), settings).expect("written");
        authority.openssl("-days 2 -subj /CN=duet-test-authority -extensions ca -keyout ca.key -out ca.crt");
        authority.issue(2);
        authority
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn certificate(&self) -> PathBuf {
        self.path("server.crt")
    }

    pub fn key(&self) -> PathBuf {
        self.path("server.key")
    }

    /// What a node needs to serve it.
    pub fn settings(&self) -> Vec<(String, String)> {
        let text = |path: PathBuf| path.to_str().expect("a name").to_owned();
        vec![("DUET_TLS__CERT_FILE".into(), text(self.certificate())), ("DUET_TLS__KEY_FILE".into(), text(self.key()))]
    }

    /// Puts another certificate and key in place, each by a rename, as those do who renew certificates.
    pub fn issue(&self, days: u32) {
        self.openssl(&format!(
            "-days {days} -subj /CN=localhost -extensions server -keyout next.key -out next.crt -CA ca.crt -CAkey ca.key"
        ));
        fs::rename(self.path("next.key"), self.key()).expect("renamed");
        fs::rename(self.path("next.crt"), self.certificate()).expect("renamed");
    }

    /// Puts one in place that ended yesterday, with its key.
    pub fn expire(&self) {
        self.run("x509 -in server.crt -signkey server.key -days -1 -out next.crt");
        fs::rename(self.path("next.crt"), self.certificate()).expect("renamed");
    }

    fn openssl(&self, of_its_own: &str) {
        self.run(&format!(
            "req -x509 -config openssl.cnf -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes {of_its_own}"
        ));
    }

    fn run(&self, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(self.directory.path())
            .output()
            .expect("openssl is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// The certificate that is in its file now.
    pub fn current(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.certificate()).expect("a certificate")
    }

    /// Over TLS, by those application protocols.
    pub async fn over(&self, stream: TcpStream, alpn: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.crt")).expect("the authority")).expect("trusted");
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from("localhost").expect("a name");
        let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
        tokio::time::timeout(PATIENCE, connecting).await.expect("in time")
    }

    pub async fn connect(&self, address: SocketAddr) -> TlsStream<TcpStream> {
        self.over(TcpStream::connect(address).await.expect("connected"), &[]).await.expect("a TLS connection")
    }

    /// The certificate that a new connection is shown.
    pub async fn shown(&self, address: SocketAddr) -> CertificateDer<'static> {
        let stream = self.connect(address).await;
        stream.get_ref().1.peer_certificates().expect("certificates")[0].clone()
    }

    /// As `support::http`, over TLS: the whole answer.
    pub async fn http(&self, address: SocketAddr, request: &str) -> String {
        let mut stream = self.connect(address).await;
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("in time").expect("an end of TLS");
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub async fn get(&self, address: SocketAddr, path: &str) -> String {
        self.http(address, &format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")).await
    }
}
