"""Keep the certificates, keys and kubeconfig files of one cluster."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.kube import flags, kubeconfig
from tests.kube.flags import LOOPBACK, Files
from tests.kube.pki import Authority, KeyPair, make_key, write_public_key

WEBHOOK = "sandbox-webhook"
NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")


class Identities:
    """Issues what the parts and the users of a cluster show each other; files in `directory`."""

    def __init__(self, directory: Path, url: str, hosts: Sequence[str]) -> None:
        """Args: url: of the API server. hosts: names and addresses that it is reached by."""
        self.directory = directory
        self.url = url
        self._authority = Authority(directory)
        self.ca = self._authority.certificate
        self.admin = self._authority.client("admin", ["system:masters"], file="admin")
        self.admin_config = self._write("admin", kubeconfig.certificate_user(self.admin))
        self.files = self._server_files(hosts)

    def _server_files(self, hosts: Sequence[str]) -> Files:
        key, public = self.directory / "account.key", self.directory / "account.pub"
        write_public_key(make_key(key), public)
        names = dict.fromkeys([LOOPBACK, flags.SERVICE_ADDRESS, *NAMES, *hosts])
        serving = self._authority.serving("kube-apiserver", list(names))
        return Files(ca=self.ca, serving=serving, account_key=key, account_public=public)

    def issue(self, user: str, groups: Sequence[str] = ()) -> KeyPair:
        """A client certificate of `user`."""
        return self._authority.client(user, groups, file=_file_of(user))

    def for_user(self, user: str, groups: Sequence[str] = (), *, url: str | None = None) -> Path:
        """A kubeconfig with a client certificate of `user`."""
        pair = self.issue(user, groups)
        return self._write(_file_of(user), kubeconfig.certificate_user(pair), url=url)

    def for_token(self, namespace: str, name: str, token: str, *, url: str | None = None) -> Path:
        """A kubeconfig with the token of a service account."""
        file = f"account-{namespace}-{name}"
        return self._write(file, {"token": token}, url=url, namespace=namespace)

    def webhook_folder(self) -> Path:
        """A folder with tls.crt, tls.key of a webhook that is called on the loopback address."""
        folder = self.directory / WEBHOOK
        folder.mkdir(exist_ok=True)
        pair = self._authority.serving(WEBHOOK, [LOOPBACK, "localhost"])
        shutil.copy(pair.certificate, folder / "tls.crt")
        shutil.copy(pair.key, folder / "tls.key")
        return folder

    def _write(
        self, file: str, user: dict[str, str], *, url: str | None = None, namespace: str = "default"
    ) -> Path:
        path = self.directory / f"{file}.kubeconfig"
        ca = self.ca.read_bytes()
        return kubeconfig.write(path, url or self.url, ca, user, namespace=namespace)


def _file_of(user: str) -> str:
    return "user-" + user.replace(":", "-").replace("/", "-")
