"""XEP-0356 and XEP-0321: what a component may do in the name of accounts, where the configuration says so."""

from beamish.net.privilege.options import PrivilegeOptions
from beamish.net.privilege.privileges import Privileges
from beamish.net.privilege.roster import is_settling

__all__ = ["PrivilegeOptions", "Privileges", "is_settling"]
