"""CloudLab's manifest as an inventory. The form is real (rspec 3 with Emulab's `vnode`); names are made up."""

import pytest
import yaml

from inferhost import cli, cloudlab
from inferhost.schema.problems import InputError

MANIFEST = """<?xml version="1.0" encoding="UTF-8"?>
<rspec xmlns="http://www.geni.net/resources/rspec/3" xmlns:emulab="http://www.protogeni.net/resources/rspec/ext/emulab/1"
       type="manifest">
 <node client_id="node0" exclusive="true"
       component_id="urn:publicid:IDN+wisc.cloudlab.us+node+c220g5-110432" sliver_id="urn:publicid:IDN+x+sliver+1">
  <sliver_type name="raw-pc"><disk_image name="urn:publicid:IDN+emulab.net+image+UBUNTU24-64-STD"/></sliver_type>
  <hardware_type name="c220g5"/>
  <emulab:vnode name="c220g5-110432" hardware_type="c220g5"/>
  <host name="node0.experiment.project-PG0.wisc.cloudlab.us" ipv4="192.0.2.10"/>
  <services>
   <login authentication="ssh-keys" hostname="c220g5-110432.wisc.cloudlab.us" port="22" username="ada"/>
   <login authentication="ssh-keys" hostname="c220g5-110432.wisc.cloudlab.us" port="22" username="bob"/>
  </services>
 </node>
 <node client_id="node1" exclusive="false">
  <emulab:vnode name="pcvm1-1" hardware_type="pcvm"/>
  <services><login hostname="pc1.wisc.cloudlab.us" port="25010" username="ada"/></services>
 </node>
 <link client_id="link0"><interface_ref client_id="node0:if0"/></link>
</rspec>
"""


def refusal(manifest, user=None):
    with pytest.raises(InputError) as refused:
        cloudlab.inventory(manifest.encode(), user)
    return str(refused.value)


def test_nodes_become_hosts_of_the_person_who_asks():
    text = cloudlab.inventory(MANIFEST.encode(), "ada")
    assert yaml.safe_load(text) == {
        "cloudlab": {
            "hosts": {
                "node0": {"ansible_host": "c220g5-110432.wisc.cloudlab.us", "ansible_user": "ada"},
                "node1": {"ansible_host": "pc1.wisc.cloudlab.us", "ansible_port": 25010, "ansible_user": "ada"},
            }
        }
    }
    assert "hardware type: c220g5, pcvm" in text


def test_who_you_are_has_to_be_said_where_several_may_log_in():
    assert refusal(MANIFEST) == (
        "error: manifest.node[0].login: found 2 people, wanted to know who you are\n"
        "hint: --user takes one of: ada, bob"
    )
    assert "manifest.node[1].login: found none of bob\nhint: --user takes one of: ada" in refusal(MANIFEST, "bob")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("c220g5-110432.wisc.cloudlab.us", "-oProxyCommand=id", 'login.hostname: found "-oProxyCommand=id"'),
        ('username="ada"', 'username="{{ lookup(1) }}"', "login: found none of ada"),
        ('client_id="node0"', 'client_id="{{ x }}"', 'client_id: found "{{ x }}"'),
        ('client_id="node1"', 'client_id="node0"', 'client_id: found "node0" twice'),
        ('port="25010"', 'port="99999"', 'login.port: found "99999", wanted 1 to 65535'),
        ("</rspec>", "", "manifest: is no XML"),
    ],
)
def test_what_is_more_than_a_name_is_refused(old, new, words):
    assert words in refusal(MANIFEST.replace(old, new), "ada")


def test_entities_are_never_expanded():
    bomb = '<!DOCTYPE rspec [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>\n<rspec><node client_id="&b;"/></rspec>'
    assert refusal(bomb) == "error: manifest: found a document type, wanted plain elements"
    outside = '<!DOCTYPE rspec SYSTEM "file:///etc/passwd"><rspec/>'
    assert "document type" in refusal(outside)


def test_what_is_no_manifest_is_refused():
    assert "found no node" in refusal("<html/>")
    assert "wanted 4000000 at most" in refusal("<a>" + "x" * 4_000_000 + "</a>")


def test_the_command_prints_the_inventory_and_refuses_without_a_traceback(tmp_path, capsys):
    manifest = tmp_path / "manifest.xml"
    manifest.write_text(MANIFEST)
    assert cli.main(["cloudlab", str(manifest), "--user", "ada"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["cloudlab"]["hosts"].keys() == {"node0", "node1"}
    assert cli.main(["cloudlab", str(manifest)]) == 2
    assert capsys.readouterr().err.startswith("error: manifest.node[0].login")
    assert cli.main(["cloudlab", str(tmp_path / "gone.xml")]) == 2
    assert "gone.xml" in capsys.readouterr().err
