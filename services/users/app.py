"""The use cases of this context; each opens at most one transaction."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from chassis import outbox
from chassis.clock import Clock
from chassis.ids import NewId
from chassis.postgres import Database, Transaction
from services.users import events
from services.users.credentials import AccessToken, AccessTokens, Passwords
from services.users.domain import (
    BadCredentialsError,
    CustomerStatistics,
    EmailTakenError,
    LastAdminError,
    NotAnAdminError,
    PostalAddress,
    Role,
    StatisticsChange,
    User,
    UserAddress,
    UserNotFoundError,
    UserState,
    can_be_an_email,
    normal_email,
    require_not_deactivated,
    require_room_for_an_address,
)
from services.users.store import accounts, statistics

BOOTSTRAP_ADMIN_NAME = "Administrator"


@dataclass(frozen=True, kw_only=True)
class Users:
    """The use cases and what they need.

    Attributes:
        published: called after a commit that left something in the outbox; wakes the relay.
    """

    database: Database
    passwords: Passwords
    tokens: AccessTokens
    clock: Clock
    new_id: NewId
    published: Callable[[], None]

    async def register(self, *, email: str, password: str, display_name: str) -> User:
        """Creates a customer's account and tells the others.

        Raises:
            EmailTakenError: another account has this e-mail.
            BusyError: too many passwords wait already.
        """
        return await self._create(email, password, display_name, Role.CUSTOMER)

    async def ensure_admin(self, *, email: str, password: str) -> None:
        """Creates an admin unless some account has the e-mail already, which then stays as it is."""
        if await accounts.email_exists(self.database, normal_email(email)):
            return
        try:
            await self._create(email, password, BOOTSTRAP_ADMIN_NAME, Role.ADMIN)
        except EmailTakenError:
            # Another replica was faster.
            return

    async def log_in(self, *, email: str, password: str) -> tuple[AccessToken, User]:
        """Exchanges e-mail and password for an access token.

        Raises:
            BadCredentialsError: whatever is wrong with them, after the same work.
            BusyError: too many passwords wait already.
        """

        async def verify(password_hash: str | None) -> bool:
            return await self.passwords.verify(password_hash, password)

        known_form = normal_email(email) if can_be_an_email(email) else None
        user = await accounts.user_with_password(self.database, known_form, verify)
        if user is None or user.state is not UserState.ACTIVE:
            raise BadCredentialsError
        return self.tokens.issue(user), user

    async def get_user(self, user_id: UUID) -> User:
        """Reads one user.

        Raises:
            UserNotFoundError: there is none.
        """
        return await accounts.user_by_id(self.database, user_id)

    async def set_role(self, user_id: UUID, role: Role, *, by: UUID) -> User:
        """Changes a user's role. Tokens that are out keep the old one until they expire.

        Args:
            user_id: whose role.
            role: the new one.
            by: the admin who asks.

        Raises:
            UserNotFoundError: there is none.
            UserNotActiveError: the user is deactivated.
            LastAdminError: nobody else is an active admin.
            NotAnAdminError: `by` is none, or no more.
        """

        async def use_case(tx: Transaction) -> User:
            user = await accounts.lock_user(tx, user_id)
            if role is not Role.ADMIN:
                await _require_others(tx, user)
            await _require_admin(tx, by)
            require_not_deactivated(user.state)
            await accounts.set_role(tx, user_id, role)
            return replace(user, role=role)

        return await self.database.run(use_case)

    async def deactivate(self, user_id: UUID, *, by: UUID) -> User:
        """Closes an account for good and tells the others; once more changes nothing.

        Its personal data is forgotten, so that its e-mail is free; ids and statistics stay. Tokens that are
        out are believed by the gateway until they expire.

        Args:
            user_id: whose account.
            by: who asks: the user, or an admin.

        Raises:
            UserNotFoundError: there is none.
            LastAdminError: nobody else is an active admin.
            NotAnAdminError: `by` is somebody else and no admin, or no more.
        """
        now = self.clock.now()
        event = events.user_deactivated(self.new_id(), user_id, now)

        async def use_case(tx: Transaction) -> User:
            user = await accounts.lock_user(tx, user_id)
            if user.deactivate_time is None:
                await _require_others(tx, user)
            if by != user_id:
                await _require_admin(tx, by)
            # The time and not the state: whom somebody made DEACTIVATED by hand is known still.
            if user.deactivate_time is None:
                sequence = await accounts.anonymise(tx, user_id, now)
                await outbox.append(tx, event, sequence=sequence)
            return await accounts.user_by_id(tx, user_id)

        user = await self.database.run(use_case)
        self.published()
        return user

    async def add_address(self, user_id: UUID, request_id: UUID, address: PostalAddress) -> UserAddress:
        """Adds an address; the same request again returns what it made the first time.

        Raises:
            UserNotFoundError: there is no such user.
            UserNotActiveError: the user is deactivated.
            TooManyAddressesError: the address book is full.
        """
        entry = UserAddress(self.new_id(), address, self.clock.now())

        async def use_case(tx: Transaction) -> UserAddress:
            # The lock makes requests of one user wait for each other, so that the count and the look hold.
            require_not_deactivated((await accounts.lock_user(tx, user_id)).state)
            book = await accounts.addresses_of_user(tx, user_id)
            if request_id in book:
                return book[request_id]
            require_room_for_an_address(len(book))
            await accounts.insert_address(tx, user_id, request_id, entry)
            return entry

        return await self.database.run(use_case)

    async def list_addresses(self, user_id: UUID) -> Sequence[UserAddress]:
        """The address book, oldest first.

        Raises:
            UserNotFoundError: there is no such user.
        """
        return list((await accounts.addresses_of_user(self.database, user_id)).values())

    async def assert_can_order(self, user_id: UUID, address_id: UUID) -> PostalAddress:
        """The address that an order of this user goes to, as it is now.

        Raises:
            UserNotFoundError: there is no such user.
            UserNotActiveError: the user may not order.
            AddressNotFoundError: the user has no such address.
        """
        return await accounts.address_to_order_to(self.database, user_id, address_id)

    async def get_statistics(self, user_id: UUID) -> CustomerStatistics:
        """What a customer ordered and spent, as far as the facts have arrived."""
        return await statistics.statistics_of_user(self.database, user_id)

    def key_set_json(self) -> str:
        """The public keys that verify access tokens, as a JSON Web Key Set."""
        return self.tokens.key_set_json()

    async def _create(self, email: str, password: str, display_name: str, role: Role) -> User:
        # Before the transaction: no connection waits for argon2.
        password_hash = await self.passwords.hash(password)
        user = User(
            id=self.new_id(),
            email=normal_email(email),
            display_name=display_name,
            role=role,
            state=UserState.ACTIVE,
            create_time=self.clock.now(),
        )
        event = events.user_registered(self.new_id(), user)

        async def use_case(tx: Transaction) -> None:
            sequence = await accounts.insert_user(tx, user, password_hash=password_hash)
            if sequence is None:
                raise EmailTakenError
            await outbox.append(tx, event, sequence=sequence)

        await self.database.run(use_case)
        self.published()
        return user


async def record_order_fact(tx: Transaction, change: StatisticsChange) -> None:
    """Counts one fact about an order, in the transaction of the inbox that lets each pass once."""
    await statistics.add_to_statistics(tx, change)


async def _require_others(tx: Transaction, user: User) -> None:
    """Passes where an admin is left without this user, whose row is locked.

    Raises:
        LastAdminError: nobody else is an active admin.
    """
    if user.is_active_admin and not await accounts.is_there_another_admin(tx, user.id):
        raise LastAdminError


async def _require_admin(tx: Transaction, user_id: UUID) -> None:
    """Passes for who is an admin now: a token says what was true an hour ago, and this cannot be taken back.

    Asked after the lock of `_require_others`, so that of two who deactivate each other one is refused.

    Raises:
        NotAnAdminError: they are none, or not active.
    """
    try:
        user = await accounts.user_by_id(tx, user_id)
    except UserNotFoundError:
        raise NotAnAdminError from None
    if not user.is_active_admin:
        raise NotAnAdminError
